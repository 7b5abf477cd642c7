//! The measurement in a step: A(x), the residual norm and its whitening, and the outputs of a run.

use super::Step;
use crate::error::{Error, Result};
use crate::graph::{TensorId, adjoint};
use crate::ops::add::Add;
use crate::ops::crop::Crop;
use crate::ops::norm::ResidualNorm;
use crate::sampler::guidance::Guidance;
use crate::sampler::phase::MeasurementInputs;
use crate::tensor::Shape;

impl Step<'_> {
    /// y
    pub fn y(&mut self) -> TensorId {
        self.measurement().y
    }

    /// A(x) of the image that `whole`, a canvas, contains. The canvas is cropped if it is larger
    /// than the image.
    pub fn measured(&mut self, whole: TensorId) -> Result<TensorId> {
        let state = self.measurement().state;
        let seen = self.image_part(whole)?;
        self.setup.operator.build(&mut self.graph, seen, state)
    }

    /// The image that `whole`, a canvas, contains.
    pub(super) fn image_part(&mut self, whole: TensorId) -> Result<TensorId> {
        let image = self.setup.image;
        match self.graph.shape(whole) == image {
            true => Ok(whole),
            false => self.graph.one(Crop { h: image.h, w: image.w }, "crop", &[whole]),
        }
    }

    /// || A(D(x0)) - y || per item, (n, 1, 1, 1). D is the decoder of a latent model, else the
    /// identity. The residual is whitened (see [`crate::sampler::whitening`]) if the guidance says
    /// so and the operator has a spectrum in the cosine transform.
    pub fn residual(&mut self, x0: TensorId, guidance: &Guidance) -> Result<TensorId> {
        let whole = self.decode(x0)?;
        let a = self.measured(whole)?;
        let y = self.y();
        let Some(sigma) = guidance.whitening(self.setup.operator) else {
            return self.graph.one(ResidualNorm, "residual", &[a, y]);
        };
        let weights = self.whitening_weights(sigma)?;
        self.setup.whitened(&mut self.graph, a, y, weights)
    }

    /// A^T (y - A(D(x))): minus half the gradient of || A(D(x)) - y ||^2 with respect to x. D is the
    /// decoder of a latent model, else the identity. x and the result are canvases; the result is 0
    /// beyond the image. For what is not linear, the adjoint is the VJP at x. No denoiser is
    /// evaluated.
    pub fn back_projected_error(&mut self, x: TensorId) -> Result<TensorId> {
        let whole = self.decode(x)?;
        let seen = self.measured(whole)?;
        let y = self.y();
        let error = self.graph.one(Add { scale: -1.0 }, "error", &[y, seen])?;
        adjoint(&mut self.graph, seen, error, x)
    }

    pub(super) fn measurement(&mut self) -> &mut MeasurementInputs {
        let (s, g) = (self.setup, &mut self.graph);
        self.measurement.get_or_insert_with(|| MeasurementInputs {
            y: g.input("y", s.measurement_shape()),
            state: s.operator.state_shape(s.image).map(|shape| g.input("state", shape)),
            whitening: None,
            power: None,
        })
    }

    fn whitening_weights(&mut self, sigma: f64) -> Result<TensorId> {
        self.measurement();
        let (image, y) = (self.setup.image, self.setup.measurement_shape());
        if y != image {
            return Err(Error::Invalid(format!(
                "{} gives a spectrum, but its measurement has the extent {y} where the image has {image}; a spectrum is for \
                 operators that keep the extent",
                self.setup.operator.task()
            )));
        }
        let shape = Shape { c: 1, ..y };
        let (g, m) = (&mut self.graph, self.measurement.as_mut().expect("made above"));
        match *m.whitening.get_or_insert_with(|| (g.input("whitening", shape), sigma)) {
            (weights, same) if same == sigma => Ok(weights),
            _ => Err(Error::Invalid("a phase whitens its residuals by two standard deviations".into())),
        }
    }

    /// Reports a residual norm per item in the progress and in the trace of a run.
    pub fn report(&mut self, residual: TensorId) {
        self.reported = Some(residual);
    }

    /// Makes a tensor readable by [`Chain::read`](crate::sampler::chain::Chain::read) under a name.
    pub fn output(&mut self, name: &'static str, value: TensorId) {
        self.outputs.push((name, value));
    }
}
