//! The recipes of the README, followed to the letter in `examples/`, compile and do what they say.

#[path = "transforms/cosine.rs"]
mod cosine;
#[path = "../examples/own_method.rs"]
mod own_method;
#[path = "../examples/own_operator.rs"]
mod own_operator;

use cosine::cosine_transform;
use dmap::graph::Shape;
use dmap::operator::Operator;
use dmap::sampler::Measurer;

#[test]
fn a_method_of_ones_own_restores() {
    own_method::main().unwrap();
}

#[test]
fn operators_of_ones_own_are_restored_by_dmap() {
    own_operator::main().unwrap();
}

#[test]
fn the_spectrum_of_the_blur_is_exact() {
    let (operator, image) = (own_operator::Sideways, Shape::new(1, 12, 20, 3));
    let x: Vec<f32> = (0..image.numel()).map(|i| (i as f32 * 1.7).sin()).collect();
    let mut measurer = Measurer::new(&operator, image).unwrap();
    // Its matrix is symmetric: A A is A^T A.
    let once = measurer.apply(&x, &[]).unwrap();
    let twice = measurer.apply(&once, &[]).unwrap();
    let power = operator.spectrum().unwrap().power(image, &[]).unwrap();
    for channel in 0..3 {
        let (seen, given) = (cosine_transform(&twice, image, channel), cosine_transform(&x, image, channel));
        for (i, ((seen, given), power)) in seen.iter().zip(&given).zip(&power).enumerate() {
            assert!((seen - power * given).abs() < 1e-5, "coefficient {i}: {seen}, stated {}", power * given);
        }
    }
}
