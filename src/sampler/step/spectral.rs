//! The words of spectral steps: the coefficients of an image in the transform that makes the
//! operator diagonal, and what the measurement changes in them.

use super::{Scalar, Step};
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::operator::{Operator, SizedTransform, Spectrum};
use crate::ops::crop::ZeroPad;
use crate::ops::spectral_step::SpectralStep;
use crate::sampler::setup::Setup;
use crate::tensor::Shape;

/// The singular vectors of the operator, and its squared singular values if it has no state.
pub struct SingularVectors {
    /// The transform T whose rows are the right singular vectors.
    transform: SizedTransform,
    /// s^2 per coefficient. None if it depends on the operator's state.
    power: Option<Vec<f32>>,
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
    pub etab: f64,
}

fn spectrum(operator: &dyn Operator) -> Result<Spectrum<'_>> {
    let none =
        || Error::Invalid(format!("a spectral step needs a spectrum of the operator, which {} lacks", operator.task()));
    operator.singular_spectrum().ok_or_else(none)
}

/// s^2 per coefficient of one image of shape `x`, which has this state.
pub(in crate::sampler) fn power(operator: &dyn Operator, x: Shape, state: &[f32]) -> Result<Vec<f32>> {
    Ok(in_single(spectrum(operator)?.power(x, state)?))
}

fn in_single(power: Vec<f64>) -> Vec<f32> {
    power.into_iter().map(|p| p as f32).collect()
}

impl SingularVectors {
    /// Those of the setup's operator. Fails if it has no spectrum.
    pub fn of(setup: &Setup<'_>) -> Result<SingularVectors> {
        let (spectrum, one) = (spectrum(setup.operator)?, Shape { n: 1, ..setup.image });
        let has_state = setup.operator.state_shape(one).is_some();
        let power = if has_state { None } else { Some(in_single(spectrum.power(one, &[])?)) };
        Ok(SingularVectors { transform: spectrum.sized(one), power })
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
            coefficients.push(vectors.transform.coefficients(
                &mut self.graph,
                &format!("{name}.coefficients"),
                part,
            )?);
        }
        let power = self.power(self.graph.shape(coefficients[0]), vectors);
        let op =
            SpectralStep { columns: [level.sigma.0, level.noise.0], eta: level.eta as f32, etab: level.etab as f32 };
        coefficients.extend([power, self.coefficients]);
        let change = self.graph.one(op, "change.coefficients", &coefficients)?;
        let change = vectors.transform.image(&mut self.graph, "change", change)?;
        let canvas = self.setup.canvas();
        match self.graph.shape(change) == canvas {
            true => Ok(change),
            false => self.graph.one(ZeroPad { h: canvas.h, w: canvas.w }, "change.canvas", &[change]),
        }
    }

    /// s^2 of coefficients of this shape: a constant, or an input if the operator has a state.
    fn power(&mut self, coefficients: Shape, vectors: &SingularVectors) -> TensorId {
        if let Some(power) = &vectors.power {
            return self.graph.constant("power", Shape { c: 1, ..coefficients }, power.repeat(coefficients.n));
        }
        self.measurement();
        let (g, m) = (&mut self.graph, self.measurement.as_mut().expect("made above"));
        *m.power.get_or_insert_with(|| g.input("power", Shape { c: 1, ..coefficients }))
    }
}
