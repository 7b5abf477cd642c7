//! An operator described in a transform that makes it diagonal.

use crate::error::{Error, Result};
use crate::tensor::Shape;

/// An orthonormal transform of each channel of an image, (h, w) values to (h, w) coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transform {
    /// The identity: a coefficient is a pixel.
    Pixels,
    /// The cosine transform (DCT-II) along both axes,
    /// [`Taps::cosine_transform`](crate::ops::axis_filter::Taps::cosine_transform): coefficient (k,
    /// l) is the frequency (pi k / h, pi l / w) in radians per pixel.
    Cosine,
}

type Power<'a> = Box<dyn Fn(Shape, &[f32]) -> Vec<f64> + 'a>;

/// The power of a linear operator A, whose measurement has the image's shape, in a transform T that
/// makes it diagonal: `T A A^T T^T = T A^T A T^T = diag(power)`, the same for every channel.
///
/// The roots of the power are the singular values of A, and the rows of T are its right singular
/// vectors. Methods with spectral steps (DDRM) need the same. The transform does not depend on the
/// operator's state, but the power does: a graph is recorded for the transform, and its numbers are
/// computed for each measurement.
///
/// A spectrum may be approximate. A blur that reflects without repeating the edge is diagonal in
/// the cosine transform except for a border as wide as its kernel. If its kernel has no symmetry,
/// it also mixes the phases of a frequency and its mirror image. The power of such an operator is
/// the diagonal of `T A A^T T^T`; `tests/spectrum.rs` states how far `T A^T A` is from it.
pub struct Spectrum<'a> {
    transform: Transform,
    power: Power<'a>,
}

impl<'a> Spectrum<'a> {
    /// A spectrum in `transform`. `power(x, state)` gives |A|^2 at each of the h w coefficients,
    /// row by row, for images of shape `x` (n = 1) and the state of one image.
    pub fn new(transform: Transform, power: impl Fn(Shape, &[f32]) -> Vec<f64> + 'a) -> Spectrum<'a> {
        Spectrum { transform, power: Box::new(power) }
    }

    /// The transform in which A is diagonal.
    pub fn transform(&self) -> Transform {
        self.transform
    }

    /// |A|^2 at each of the h w coefficients, row by row, for images of shape `x` and the state of
    /// one image. Fails if the operator gives another number of values, or values that are negative
    /// or not finite.
    pub fn power(&self, x: Shape, state: &[f32]) -> Result<Vec<f64>> {
        let power = (self.power)(x, state);
        if power.len() != x.h * x.w {
            return Err(Error::Invalid(format!(
                "the operator's spectrum has {} values for an image of {}x{} pixels; it needs one for each of the {} \
                 coefficients",
                power.len(),
                x.w,
                x.h,
                x.h * x.w
            )));
        }
        match power.iter().position(|p| !p.is_finite() || *p < 0.0) {
            None => Ok(power),
            Some(i) => Err(Error::Invalid(format!(
                "the operator's spectrum has the power {} at coefficient ({}, {}); a power is finite and not negative",
                power[i],
                i / x.w,
                i % x.w
            ))),
        }
    }
}
