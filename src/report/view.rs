//! The measurement as a person looks at it.

use crate::image::Picture;
use crate::operator::{Observed, Operator};
use crate::tensor::Shape;

/// The measurement of an image of extent `x` in the image's size: missing pixels black rather than mid grey, pixels of a measurement of
/// another extent as squares.
pub fn view(operator: &dyn Operator, y: &Picture, state: &[f32], x: Shape) -> Picture {
    let mut seen = y.clone();
    if let Observed::Mask(mask) = operator.observed(state) {
        for (pixel, &m) in seen.values.chunks_mut(3).zip(mask) {
            if m == 0.0 {
                pixel.fill(-1.0);
            }
        }
    }
    match (y.height, y.width) == (x.h, x.w) {
        true => seen,
        false => seen.resize_nearest(x.h, x.w),
    }
}
