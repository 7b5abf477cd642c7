//! Second-order Tweedie sampling (Rout et al. 2024): before every ancestral step, K gradient steps
//! at the same noise level. They descend on the residual plus an estimate of the trace of the
//! score's Jacobian.
//!
//! The score is s(x) = (sqrt(abar) x0(x) - x) / (1 - abar). With n ~ N(0, I), T = mean(n (s(x +
//! n) - s(x))) equals sqrt(abar) / (1 - abar) mean(n (x0(x + n) - x0(x))) up to a constant. A step
//! is x <- x - zeta d(|| A(x0) - y || + weight T) / dx. Published step sizes refer to sigma space,
//! where dL/dz = sqrt(abar) dL/dx. So the step in x is zeta abar dL/dx.

use super::unconditional;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::ops::add::Add;
use crate::ops::norm::SquaredNorm;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use std::sync::Arc;

/// Options of `stsl`.
#[derive(Clone, Copy, Debug)]
pub struct Stsl {
    /// K: gradient steps per noise level, at least 1.
    pub k: usize,
    /// Weight of the trace T.
    pub weight: f64,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let (k, weight) = (options.count("k", 5, 1..=1000)?, options.number("weight", 0.1, 0.0..=1e6)?);
    Ok(Arc::new(Stsl { k, weight, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

/// Two squared norms per item, || a + b ||^2 and || a - b ||^2. Their difference is 4 <a, b>.
fn products(s: &mut Step<'_>, a: TensorId, b: TensorId) -> Result<(TensorId, TensorId)> {
    let sum = s.graph.one(Add { scale: 1.0 }, "trace.sum", &[a, b])?;
    let difference = s.graph.one(Add { scale: -1.0 }, "trace.difference", &[a, b])?;
    Ok((s.graph.one(SquaredNorm, "trace.plus", &[sum])?, s.graph.one(SquaredNorm, "trace.minus", &[difference])?))
}

impl Method for Stsl {
    fn method(&self) -> String {
        format!("stsl:k={},weight={},{}", self.k, self.weight, self.guidance)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if self.k == 0 {
            return Err(Error::Invalid("stsl: k=0 would ignore the measurement; choose at least 1".into()));
        }
        if matches!(self.guidance.step, StepRule::Adam { .. }) {
            let reason =
                "stsl has no step=adam, because it descends at x_t and adam moves x_{t-1}: write step=polyak:0.3";
            return Err(Error::Invalid(reason.into()));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let (weight, numel) = (self.weight, phases.setup.canvas().item() as f64);
        phases.add("inner", |s| {
            let x = s.x();
            let n = s.normal("probe", Draw::Travel)?;
            let x0 = s.estimate(x)?.x0;
            let residual = s.residual(x0, &self.guidance)?;
            let moved = s.graph.one(Add { scale: 1.0 }, "x.moved", &[x, n])?;
            let x0_moved = s.estimate(moved)?.x0;
            let change = s.graph.one(Add { scale: -1.0 }, "change", &[x0_moved, x0])?;
            let (plus, minus) = products(s, n, change)?;
            let trace = move |bar: f64| weight * bar.sqrt() / (1.0 - bar) / numel / 4.0;
            let by_plus = s.scalar(move |m| trace(m.level.alpha_bar));
            let by_minus = s.scalar(move |m| -trace(m.level.alpha_bar));
            let one = s.constant(1.0);
            let objective = s.combine("objective", &[(one, residual), (by_plus, plus), (by_minus, minus)])?;
            let gradient = s.gradient(objective, x)?;
            let next = s.descend(x, gradient, residual, self.guidance.step, |l| l.alpha_bar)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })?;
        phases.add("outer", unconditional::step)
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        for _ in 0..self.k {
            chain.run("inner")?;
        }
        chain.run("outer")
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
