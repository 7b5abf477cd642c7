//! DMAP: several ascent steps on the posterior per noise level, each projected back onto the sphere
//! on which p(x_{t-1} | x_t) concentrates (Xu et al. 2025), in the VP coordinates of pixel models.
//!
//! In sigma space (z = x / sqrt(abar)) the published inner step is z' <- z' - zeta dL/dz', then
//! z' <- mean + s_up sqrt(numel) (z' - mean) / ||z' - mean||. With x' = sqrt(abar') z' the gradient
//! is dL/dz' = sqrt(abar') dL/dx', so the step in x' is zeta abar' dL/dx'; the projection keeps its
//! form.

use crate::error::{Error, Result};
use crate::model::Prior;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::method::{Conditioned, Method};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::through::Through;
use std::sync::Arc;

/// Options of `dmap`.
#[derive(Clone, Copy, Debug)]
pub struct Dmap {
    /// Ascent steps per noise level, at least 1.
    pub k: usize,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
    /// The networks through which the gradient flows.
    pub through: Through,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let k = options.count("k", 5, 1..=1000)?;
    let guidance = Guidance::parse(options, StepRule::Polyak(0.4))?;
    Ok(Arc::new(Dmap { k, guidance, through: Through::parse(options)? }))
}

impl Method for Dmap {
    fn method(&self) -> String {
        format!("dmap:k={},{}{}", self.k, self.guidance, self.through)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, schedule: &Schedule) -> Result<()> {
        if schedule.eta == 0.0 {
            return Err(Error::Invalid("dmap moves within the noise of a step; with eta 0 there is none".into()));
        }
        if self.k == 0 {
            return Err(Error::Invalid("dmap: k=0 would ignore the measurement; choose at least 1".into()));
        }
        self.guidance.check(operator)
    }
    fn conditioned(&self) -> Conditioned {
        self.through.conditioned()
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("outer", |s| {
            // x' ~ p(x_{t-1} | x_t)
            let x = s.x();
            let estimate = s.estimate(x)?;
            let p = s.posterior(estimate)?;
            s.set("mean", p.mean);
            s.set_x(p.sample);
            Ok(())
        })?;
        phases.add("inner", |s| {
            // x' <- x' down the gradient of || A(x0(x')) - y ||, then back onto the sphere
            let (x, mean) = (s.x(), s.state("mean"));
            let estimate = self.through.estimate(s, x)?;
            let residual = s.residual(estimate.x0, &self.guidance)?;
            let gradient = s.gradient(residual, x)?;
            let moved = s.descend(x, gradient, residual, self.guidance.step, |l| l.alpha_bar_before)?;
            let radius = s.radius();
            let next = s.onto_sphere("projection", moved, mean, radius)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("outer")?;
        // At the last step the posterior has no spread: the sphere is a point and there is nowhere
        // to go.
        if !chain.level.is_last() {
            for _ in 0..self.k {
                chain.run_at("inner", chain.level.index - 1)?;
            }
        }
        Ok(())
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
