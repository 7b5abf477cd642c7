//! Diffusion posterior sampling (Chung et al. 2023, algorithm 1), in pixel space and in the space
//! of latents.
//!
//! Published step sizes for latents refer to sigma space, z = x / sqrt(abar). There the step is
//! z' - zeta dL/dz at the current level. Since dL/dz = sqrt(abar) dL/dx, it is x' - zeta sqrt(abar
//! abar') dL/dx in VP coordinates.

use crate::error::Result;
use crate::model::Prior;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::level::Level;
use crate::sampler::method::{Conditioned, Method};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::{Estimate, Step};
use crate::sampler::through::Through;
use std::sync::Arc;

/// Options of `dps`.
#[derive(Clone, Copy, Debug)]
pub struct Dps {
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
    /// The networks through which the gradient flows.
    pub through: Through,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let guidance = Guidance::parse(options, StepRule::Polyak(0.3))?;
    Ok(Arc::new(Dps { guidance, through: Through::parse(options)? }))
}

/// `x_{t-1} = sample of p(x_{t-1} | x_t) - zeta d/dx_t || A(x0(x_t)) - y ||`. The posterior is that of
/// the first estimate, x0(x_t) is the second.
pub(super) fn step(s: &mut Step<'_>, guidance: &Guidance, (followed, guided): (Estimate, Estimate)) -> Result<()> {
    let x = s.x();
    let residual = s.residual(guided.x0, guidance)?;
    let p = s.posterior(followed)?;
    let gradient = s.gradient(residual, x)?;
    let next = s.descend(p.sample, gradient, residual, guidance.step, published(&s.setup.prior))?;
    s.report(residual);
    s.set_x(next);
    Ok(())
}

/// The factor that converts a published step size to VP coordinates.
pub(super) fn published(prior: &Prior) -> impl Fn(&Level) -> f64 + Send + Sync + 'static {
    let is_latent = prior.latent.is_some();
    move |l| if is_latent { (l.alpha_bar * l.alpha_bar_before).sqrt() } else { 1.0 }
}

impl Method for Dps {
    fn method(&self) -> String {
        format!("dps:{}{}", self.guidance, self.through)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        self.guidance.check(operator)
    }
    fn conditioned(&self) -> Conditioned {
        self.through.conditioned()
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("step", |s| {
            let x = s.x();
            let estimates = self.through.estimates(s, x)?;
            step(s, &self.guidance, estimates)
        })
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
