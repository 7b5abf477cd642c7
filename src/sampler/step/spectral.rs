//! The words of spectral steps: the coefficients of an image in the transform that makes the
//! operator diagonal, and what the measurement changes in them.

use super::{Scalar, Step};
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::operator::{Operator, Spectrum};
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::ops::crop::ZeroPad;
use crate::ops::spectral_step::SpectralStep;
use crate::sampler::setup::Setup;
use crate::tensor::Shape;
use std::sync::Arc;

/// The transform T whose rows are the right singular vectors of the operator, and its transpose.
/// Both are maps along the height and along the width; none if T is the identity.
pub struct SingularVectors {
    transform: Option<[Arc<Taps>; 2]>,
    transpose: Option<[Arc<Taps>; 2]>,
}

/// Standard deviations and shares of a spectral step.
#[derive(Clone, Copy)]
pub struct SpectralLevel {
    /// Standard deviation of the noise in x after the step, in VE coordinates.
    pub sigma: Scalar,
    /// Standard deviation of the noise in the measurement.
    pub noise: Scalar,
    /// Share of fresh noise where the measurement is too noisy, 0 to 1.
    pub eta: f64,
    /// Share of the measurement elsewhere, 0 to 1.
    pub eta_b: f64,
}

fn spectrum(operator: &dyn Operator) -> Result<Spectrum<'_>> {
    let none =
        || Error::Invalid(format!("a spectral step needs a spectrum of the operator, which {} lacks", operator.task()));
    operator.singular_spectrum().ok_or_else(none)
}

/// s^2 per coefficient of one image of shape `x`, which has this state.
pub(in crate::sampler) fn power(operator: &dyn Operator, x: Shape, state: &[f32]) -> Result<Vec<f32>> {
    Ok(spectrum(operator)?.power(x, state)?.into_iter().map(|p| p as f32).collect())
}

impl SingularVectors {
    /// Those of the setup's operator. Fails if it has no spectrum.
    pub fn of(setup: &Setup<'_>) -> Result<SingularVectors> {
        let taps = spectrum(setup.operator)?.taps(setup.image);
        let transpose = taps.as_ref().map(|taps| taps.each_ref().map(|t| Arc::new(t.transposed())));
        Ok(SingularVectors { transform: taps.map(|taps| taps.map(Arc::new)), transpose })
    }
}

impl Step<'_> {
    /// T^T c on the canvas, where c is the change of the coefficients that the measurement
    /// determines. In VE coordinates, the chain goes from the estimate x0 to `x0 + sqrt(1 - eta^2)
    /// sigma eps + eta sigma n + T^T c`. `error` is [`Step::back_projected_error`] of x0, eps is
    /// the noise in x, and n is fresh noise. All three are canvases. See
    /// [`crate::ops::spectral_step`].
    pub fn spectral_change(
        &mut self,
        vectors: &SingularVectors,
        error: TensorId,
        eps: TensorId,
        n: TensorId,
        level: SpectralLevel,
    ) -> Result<TensorId> {
        let mut coefficients = Vec::new();
        for (name, whole) in [("z", error), ("eps", eps), ("n", n)] {
            let part = self.image_part(whole)?;
            coefficients.push(self.along_axes(&format!("{name}.coefficients"), vectors.transform.as_ref(), part)?);
        }
        let power = self.power(self.graph.shape(coefficients[0]));
        let op =
            SpectralStep { columns: [level.sigma.0, level.noise.0], eta: level.eta as f32, eta_b: level.eta_b as f32 };
        coefficients.extend([power, self.coefficients]);
        let change = self.graph.one(op, "change.coefficients", &coefficients)?;
        let change = self.along_axes("change", vectors.transpose.as_ref(), change)?;
        let canvas = self.setup.canvas();
        match self.graph.shape(change) == canvas {
            true => Ok(change),
            false => self.graph.one(ZeroPad { h: canvas.h, w: canvas.w }, "change.canvas", &[change]),
        }
    }

    fn along_axes(&mut self, name: &str, taps: Option<&[Arc<Taps>; 2]>, x: TensorId) -> Result<TensorId> {
        let Some([rows, columns]) = taps else { return Ok(x) };
        let x = self.graph.one(AxisFilter { axis: Axis::Height, taps: rows.clone() }, name, &[x])?;
        self.graph.one(AxisFilter { axis: Axis::Width, taps: columns.clone() }, name, &[x])
    }

    /// The input that holds s^2 of coefficients of this shape.
    fn power(&mut self, coefficients: Shape) -> TensorId {
        self.measurement();
        let (g, m) = (&mut self.graph, self.measurement.as_mut().expect("made above"));
        *m.power.get_or_insert_with(|| g.input("power", Shape { c: 1, ..coefficients }))
    }
}
