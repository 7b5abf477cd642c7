//! The measurement as a picture for people to look at.

use crate::image::Picture;
use crate::operator::{Observed, Operator};
use crate::tensor::Shape;

/// The measurement of an image of shape `x`, as a picture of the image's size. Missing values are
/// black rather than mid grey. A measurement of another size is enlarged by nearest-neighbour, so
/// that its pixels are squares.
pub fn view(operator: &dyn Operator, y: &Picture, state: &[f32], x: Shape) -> Picture {
    let mut seen = y.clone();
    if let Observed::Mask(mask) = operator.observed(x, state) {
        let len = seen.values.len();
        let values = seen.values.iter_mut().enumerate();
        values.filter(|(i, _)| !Observed::Mask(mask).includes(*i, len)).for_each(|(_, v)| *v = -1.0);
    }
    match (y.height, y.width) == (x.h, x.w) {
        true => seen,
        false => seen.resize_nearest(x.h, x.w),
    }
}
