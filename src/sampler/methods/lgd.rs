//! Loss-guided diffusion by Monte Carlo (Song et al. 2023, eq. 8): the residual is averaged over
//! samples of x_0 around Tweedie's estimate.
//!
//! x0_j = x0 + r n_j with r = sigma / sqrt(1 + sigma^2) = sqrt(1 - abar), j = 1 .. K. A step
//! descends on the mean of the K residual norms. Their gradients are summed at x0, so the reverse
//! pass through the network runs once.

use super::dps::published;
use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `lgd`.
#[derive(Clone, Copy, Debug)]
pub struct Lgd {
    /// K: samples of x_0 per step, at least 1.
    pub samples: usize,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let samples = options.count("samples", 3, 1..=64)?;
    Ok(Arc::new(Lgd { samples, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

impl Method for Lgd {
    fn method(&self) -> String {
        format!("lgd:samples={},{}", self.samples, self.guidance)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if self.samples == 0 {
            return Err(Error::Invalid("lgd: samples=0 would ignore the measurement; choose at least 1".into()));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let k = self.samples;
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            let (one, r) = (s.constant(1.0), s.scalar(|m| (1.0 - m.level.alpha_bar).sqrt()));
            let share = s.constant(1.0 / k as f64);
            let mut residuals = Vec::new();
            for j in 0..k as u32 {
                let n = s.normal("estimate.noise", Draw::Estimate(j))?;
                let x0_j = s.combine("estimate", &[(one, estimate.x0), (r, n)])?;
                residuals.push((share, s.residual(x0_j, &self.guidance)?));
            }
            let residual = s.combine("residual.mean", &residuals)?;
            let p = s.posterior(estimate)?;
            let gradient = s.gradient(residual, x)?;
            let next = s.descend(p.sample, gradient, residual, self.guidance.step, published(&s.setup.prior))?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
