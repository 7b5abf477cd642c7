//! The recipes of the README, followed to the letter in `examples/`, compile and do what they say.

#[path = "../examples/own_method.rs"]
mod own_method;
#[path = "../examples/own_operator.rs"]
mod own_operator;

#[test]
fn a_method_of_ones_own_restores() {
    own_method::main().unwrap();
}

#[test]
fn an_operator_of_ones_own_is_restored_by_dmap() {
    own_operator::main().unwrap();
}
