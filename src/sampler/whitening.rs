//! The residual of a blur, whitened by the covariance of the measurement at every frequency.
//!
//! With x ~ N(0, r^2) per value and noise n of standard deviation s, y = A x + n has the covariance
//! r^2 A A^T + s^2 I. Song et al., "Pseudoinverse-guided diffusion models for inverse problems"
//! (ICLR 2023), use this form for p(y | x_t). Here one r serves all noise levels.
//!
//! A blur attenuates fine detail, so detail contributes almost nothing to the plain residual norm:
//! sampling stops at the noise level before detail has been restored. Weighting each frequency by
//! its inverse standard deviation makes all frequencies count equally.
//!
//! If a blur reflects at the boundary, A A^T is almost diagonal in the cosine transform T of y; if
//! the image goes on around its edges, A A^T is diagonal in the Hartley transform T. The whitened
//! norm of e = A(x) - y is || W T e || with W = c / sqrt(r^2 |A|^2 + s^2) per frequency.
//! The constant c makes the mean of W^2 equal to 1, so that white noise keeps its expected squared
//! norm.
//!
//! Whitening applies to every operator with a [spectrum](Operator::spectrum) in one of these two
//! transforms. If the power is the same at all frequencies, W is 1 and the norm is the plain one.
//! The spectrum of a mask or of `denoise` is in pixels, with power 1 wherever a pixel was measured:
//! their residual is white already and takes the plain norm.

use super::measurement::Measurement;
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::operator::{Operator, Spectrum, Transform};
use crate::ops::add::Add;
use crate::ops::mask::Mask;
use crate::ops::norm::ResidualNorm;
use crate::tensor::Shape;

/// The spectrum that whitens an operator's residual. None if the operator has no spectrum over
/// frequencies.
pub fn spectrum(operator: &dyn Operator) -> Option<Spectrum<'_>> {
    operator.spectrum().filter(|s| [Transform::Cosine, Transform::Hartley].contains(&s.transform()))
}

fn of_frequencies(operator: &dyn Operator) -> Result<Spectrum<'_>> {
    let none = || Error::Invalid(format!("{} has no spectrum over frequencies: whitening needs one", operator.task()));
    spectrum(operator).ok_or_else(none)
}

/// W of one measurement, row-major over frequencies, for images of shape `x` (n = 1). `r` is the
/// prior standard deviation of pixel values in [-1, 1]. Fails if the operator has no spectrum over
/// frequencies, or if its power is invalid.
pub fn weights(operator: &dyn Operator, x: Shape, m: &Measurement, r: f64) -> Result<Vec<f32>> {
    let spectrum = of_frequencies(operator)?;
    let variance = m.noise_variance(operator, x);
    let precision: Vec<f64> = spectrum.power(x, &m.state)?.iter().map(|p| 1.0 / (r * r * p + variance)).collect();
    let mean = precision.iter().sum::<f64>() / precision.len() as f64;
    Ok(precision.iter().map(|p| (p / mean).sqrt() as f32).collect())
}

impl Setup<'_> {
    /// || W T (a - y) || per item, where `w` holds W.
    pub(super) fn whitened(&self, g: &mut Graph, a: TensorId, y: TensorId, w: TensorId) -> Result<TensorId> {
        let shape = g.shape(a);
        let error = g.one(Add { scale: -1.0 }, "error", &[a, y])?;
        let transform = of_frequencies(self.operator)?.sized(Shape { n: 1, ..shape });
        let error = transform.coefficients(g, "frequencies", error)?;
        let error = g.one(Mask, "whitened", &[error, w])?;
        let zero = g.constant("zero", shape, vec![0.0; shape.numel()]);
        g.one(ResidualNorm, "residual", &[error, zero])
    }
}
