//! ReSample (Song et al. 2024): DPS steps, and at some noise levels hard data consistency. There
//! the estimated latent is optimised until its image explains the measurement up to noise, and x is
//! drawn again around it. These levels are in the last two thirds of the chain: every tenth one, or
//! every (steps / 10)-th one, rounded up, in a chain of fewer than 100 steps.
//!
//! AdamW minimises || A(D(z)) - y ||^2 / numel(y) over z, from Tweedie's estimate, until the
//! residual norm reaches the norm of the noise or K steps are done. The result is z0. Then, in VP
//! coordinates (eq. 12 of the paper), x' = (s2 sqrt(abar') z0 + (1 - abar') x') / (s2 + 1 -
//! abar') + n / sqrt(1 / s2 + 1 / (1 - abar')), with abar' of the next lower noise level and s2 =
//! 40 (1 - abar') / (1 - abar) (1 - abar / abar').

use super::dps;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::ops::norm::SquaredNorm;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use std::sync::Arc;

/// Options of `resample`.
#[derive(Clone, Copy, Debug)]
pub struct Resample {
    /// K: largest number of steps of an optimisation, at least 1.
    pub iterations: usize,
    /// Learning rate of AdamW.
    pub rate: f64,
    /// Residual, and length of a DPS step along its gradient.
    pub guidance: Guidance,
}

/// Weight decay of AdamW: PyTorch's default, as in the published code.
const DECAY: f64 = 1e-2;
/// Distance in levels between two optimisations, in a chain of 100 steps or more.
const EVERY: usize = 10;
/// Number of optimisation steps between two checks of the residual.
const LOOK: usize = 10;

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let iterations = options.count("iterations", 50, 1..=10_000)?;
    let rate = options.number("rate", 5e-3, 1e-12..=1e6)?;
    Ok(Arc::new(Resample { iterations, rate, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

/// True at the levels where the latent is optimised.
fn is_optimised(level: Level) -> bool {
    let (i, steps) = (level.index, level.count);
    i > 0 && 3 * i <= 2 * steps && i % EVERY.min(steps.div_ceil(EVERY)) == 0
}

/// Stochastic resampling around a latent z_0: [a, b, c] of x' = a z_0 + b x' + c n.
fn redraw(l: &Level) -> [f64; 3] {
    let (bar, before) = (l.alpha_bar, l.alpha_bar_before);
    let s2 = 40.0 * (1.0 - before) / (1.0 - bar) * (1.0 - bar / before);
    let total = s2 + 1.0 - before;
    if total <= 0.0 {
        return [1.0, 0.0, 0.0];
    }
    [s2 * before.sqrt() / total, (1.0 - before) / total, (s2 * (1.0 - before) / total).sqrt()]
}

impl Resample {
    /// z <- AdamW step on mean((A(D(z)) - y)^2)
    fn optimise(&self, s: &mut Step<'_>) -> Result<()> {
        let z = s.state("z");
        let residual = s.residual(z, &self.guidance)?;
        let objective = mean_square(s, residual)?;
        let gradient = s.gradient(objective, z)?;
        s.adamw(["z", "m", "v"], gradient, self.rate, DECAY * self.rate)?;
        s.output("residual", residual);
        Ok(())
    }
}

/// The mean squared residual per item, computed from the residual norm.
pub(super) fn mean_square(s: &mut Step<'_>, residual: TensorId) -> Result<TensorId> {
    let square = s.graph.one(SquaredNorm, "residual.square", &[residual])?;
    let share = s.constant(1.0 / s.setup.measurement_shape().item() as f64);
    s.combine("residual.mean", &[(share, square)])
}

impl Method for Resample {
    fn method(&self) -> String {
        format!("resample:iterations={},rate={},{}", self.iterations, self.rate, self.guidance)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if !(self.rate > 0.0 && self.rate.is_finite() && self.iterations > 0) {
            return Err(Error::Invalid("resample: rate and iterations must be positive".into()));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            dps::step(s, &self.guidance, (estimate, estimate))
        })?;
        phases.add("estimate", |s| {
            let x = s.x();
            let z0 = s.estimate(x)?.x0;
            s.set("z", z0);
            Ok(())
        })?;
        phases.add("optimise", |s| self.optimise(s))?;
        phases.add("redraw", |s| {
            let (z, x) = (s.state("z"), s.x());
            let n = s.normal("noise", Draw::Travel)?;
            let [a, b, c] = [0, 1, 2].map(|k| s.scalar(move |m| redraw(&m.level)[k]));
            let next = s.combine("redraw", &[(a, z), (b, x), (c, n)])?;
            s.set_x(next);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("step")?;
        if !is_optimised(chain.level) {
            return Ok(());
        }
        chain.run_at("estimate", chain.level.index - 1)?;
        chain.clear("m")?;
        chain.clear("v")?;
        for k in 1..=self.iterations {
            chain.run("optimise")?;
            let residual = if k % LOOK == 0 { chain.read("optimise", "residual")? } else { None };
            if residual.is_some_and(|r| chain.freeze(&r, 1.0)) {
                break;
            }
        }
        chain.thaw();
        chain.run("redraw")
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice().or(Some("choose a smaller rate"))
    }
}
