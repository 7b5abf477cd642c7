//! Posterior sampling with latent diffusion (Rout et al. 2023, eq. 6): DPS with a second term,
//! which draws the latent towards a fixed point of decoder and encoder.
//!
//! With the image xh = D(z0): L = || A(xh) - y || + gamma || E(xh + A^T (y - A(xh))) - z0 ||, where
//! E is a sample of the encoder's distribution. The gradient goes through network, decoder,
//! operator, adjoint and encoder.

use super::dps::published;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId, adjoint};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::ops::add::{Add, Scale};
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::ops::crop::ZeroPad;
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::norm::ResidualNorm;
use crate::options::Options;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use crate::tensor::Shape;
use std::sync::Arc;

/// Options of `psld`.
#[derive(Clone, Copy, Debug)]
pub struct Psld {
    /// Weight gamma of the second term of L.
    pub gamma: f64,
    /// True: instead of A^T, take the approximation of the published code, which is the identity
    /// for blurs and nearest-neighbour for super-resolution.
    pub published_transpose: bool,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let gamma = options.number("gamma", 0.1, 0.0..=1e6)?;
    let published_transpose = options.choice("transpose", &["exact", "published"])? == 1;
    Ok(Arc::new(Psld { gamma, published_transpose, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

impl Psld {
    /// A^T (y - A(xh)), on the whole canvas.
    fn correction(&self, s: &mut Step<'_>, xh: TensorId, seen: TensorId) -> Result<TensorId> {
        let y = s.y();
        let missing = s.graph.one(Add { scale: -1.0 }, "missing", &[y, seen])?;
        if !self.published_transpose {
            return adjoint(&mut s.graph, seen, missing, xh);
        }
        let back = published_transpose(&mut s.graph, s.setup.operator, missing, s.setup.image)?;
        let whole = s.graph.shape(xh);
        if s.graph.shape(back) == whole {
            return Ok(back);
        }
        s.graph.one(ZeroPad { h: whole.h, w: whole.w }, "back", &[back])
    }
}

/// The published code's approximation of A^T, for images of shape `x`: the identity if the
/// measurement has the image's size, else nearest-neighbour interpolation. Missing pixels of a mask
/// are already 0 in `y`.
fn published_transpose(g: &mut Graph, operator: &dyn Operator, y: TensorId, x: Shape) -> Result<TensorId> {
    let seen = g.shape(y);
    if (seen.h, seen.w) == (x.h, x.w) {
        return Ok(y);
    }
    // If the factor does not divide the image's size, the measurement belongs to a larger image.
    let whole = operator.image_shape(seen);
    let nearest = |axis, inputs: usize, outputs: usize, whole: usize| {
        let rows = (0..outputs).map(|o| vec![(o * inputs / whole.max(outputs), 1.0)]).collect();
        AxisFilter { axis, taps: Arc::new(Taps { rows, inputs }) }
    };
    let y = g.one(nearest(Axis::Height, seen.h, x.h, whole.h), "transpose.rows", &[y])?;
    g.one(nearest(Axis::Width, seen.w, x.w, whole.w), "transpose.columns", &[y])
}

/// A sample of the encoder's distribution for an image, scaled as the UNet expects it.
fn encode(s: &mut Step<'_>, image: TensorId) -> Result<TensorId> {
    let codec = s.setup.network.codec().ok_or_else(needs_latents)?;
    let moments = codec.encode(&mut s.graph, image)?;
    let noise = s.normal("encoder.noise", Draw::Encoder)?;
    let z = s.graph.one(DiagonalGaussian, "encoder.sample", &[moments, noise])?;
    let scale = codec.latent().scaling as f32;
    s.graph.one(Scale { scale }, "encoder.scaled", &[z])
}

fn needs_latents() -> Error {
    Error::Invalid("psld needs a latent model: a pixel model has no latents".into())
}

impl Method for Psld {
    fn method(&self) -> String {
        let transpose = if self.published_transpose { ",transpose=published" } else { "" };
        format!("psld:gamma={},{}{transpose}", self.gamma, self.guidance)
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if prior.latent.is_none() {
            return Err(needs_latents());
        }
        if !operator.is_linear() {
            return Err(Error::Invalid(format!("psld needs a linear operator, which {} is not", operator.task())));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let gamma = self.gamma;
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            let z0 = estimate.x0;
            let xh = s.decode(z0)?;
            let seen = s.measured(xh)?;
            let y = s.y();
            let residual = s.graph.one(ResidualNorm, "residual", &[seen, y])?;
            // E(xh + A^T (y - A(xh)))
            let back = self.correction(s, xh, seen)?;
            let corrected = s.graph.one(Add { scale: 1.0 }, "corrected", &[xh, back])?;
            let ze = encode(s, corrected)?;
            let distance = s.graph.one(ResidualNorm, "consistency", &[ze, z0])?;
            let (one, gamma) = (s.constant(1.0), s.constant(gamma));
            let objective = s.combine("objective", &[(one, residual), (gamma, distance)])?;
            let p = s.posterior(estimate)?;
            let gradient = s.gradient(objective, x)?;
            let next = s.descend(p.sample, gradient, objective, self.guidance.step, published(&s.setup.prior))?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
