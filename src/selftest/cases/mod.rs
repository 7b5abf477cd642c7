//! The case table: every op with the shapes that its code treats differently. It has three uses.
//! The self-test compares a device with the CPU on it, the tests of this crate compare both with
//! slow loops in f64 (tests/ops/truth.rs), and `dmap bench` times its ops.

mod large;
mod networks;
mod operators;
mod samplers;
mod timed;
mod training;

use super::case::Case;
pub(super) use large::large_cases;
pub use timed::timed_cases;

/// The case table.
pub fn cases() -> Vec<Case> {
    [networks::cases(), operators::cases(), samplers::cases(), training::cases()].concat()
}
