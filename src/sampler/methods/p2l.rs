//! Prompt tuning of latent samplers (P2L, Chung et al. 2024): in the first fifth of the chain the
//! text embedding is moved to lower the residual, then a DPS step follows.
//!
//! K times: c <- c - rate d/dc mean((A(D(z0(z, c))) - y)^2). Every item has its own text embedding
//! c, which is kept from level to level.

use super::dps;
use super::resample::mean_square;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::model::stable_diffusion::TEXT_EMBEDDING;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use crate::tensor::Shape;
use std::sync::Arc;

/// Options of `p2l`.
#[derive(Clone, Copy, Debug)]
pub struct P2l {
    /// K: gradient steps on the text embedding per level, at least 1.
    pub k: usize,
    /// Step size of the text embedding's gradient descent.
    pub rate: f64,
    /// Residual, and length of a DPS step along its gradient.
    pub guidance: Guidance,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let (k, rate) = (options.count("k", 3, 1..=1000)?, options.number("rate", 1e-5, 1e-12..=1e6)?);
    Ok(Arc::new(P2l { k, rate, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

/// True at the levels where the text embedding is optimised: the first fifth of the chain.
fn is_moved(level: Level) -> bool {
    5 * (level.count - 1 - level.index) < level.count
}

/// The state with a text embedding per item. It starts as the model's own embedding.
fn text(s: &mut Step<'_>) -> Result<TensorId> {
    let n = s.setup.image.n;
    let shape = s.setup.network.text_shape();
    let shape = shape.ok_or_else(|| Error::Invalid("p2l needs a model with a text embedding".into()))?;
    // An architecture without weights is planned and not run, so it needs no start.
    let start = s.setup.weights.given(TEXT_EMBEDDING).map(|own| own.repeat(n));
    Ok(s.state_of("text", Shape { n, ..shape }, start))
}

impl Method for P2l {
    fn method(&self) -> String {
        format!("p2l:k={},rate={},{}", self.k, self.rate, self.guidance)
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if prior.latent.is_none() {
            return Err(Error::Invalid("p2l needs a latent model: a pixel model has no text".into()));
        }
        if !(self.rate > 0.0 && self.rate.is_finite() && self.k > 0) {
            return Err(Error::Invalid("p2l: rate and k must be positive".into()));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let rate = self.rate;
        phases.add("text", |s| {
            let (x, c) = (s.x(), text(s)?);
            let x0 = s.estimate_with_text(x, c)?.x0;
            let residual = s.residual(x0, &self.guidance)?;
            let objective = mean_square(s, residual)?;
            let gradient = s.gradient(objective, c)?;
            let (one, minus_rate) = (s.constant(1.0), s.constant(-rate));
            let next = s.combine("text", &[(one, c), (minus_rate, gradient)])?;
            s.set("text", next);
            Ok(())
        })?;
        phases.add("step", |s| {
            let (x, c) = (s.x(), text(s)?);
            let estimate = s.estimate_with_text(x, c)?;
            dps::step(s, &self.guidance, (estimate, estimate))
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        if is_moved(chain.level) {
            for _ in 0..self.k {
                chain.run("text")?;
            }
        }
        chain.run("step")
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice().or(Some("choose a smaller rate"))
    }
}
