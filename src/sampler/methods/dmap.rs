//! DMAP: several ascent steps on the posterior per noise level, each projected back onto the sphere
//! on which p(x_{t-1} | x_t) concentrates (Xu et al. 2025), in the VP coordinates of pixel models.
//!
//! In sigma space (z = x / sqrt(abar)) the published inner step is z' <- z' - zeta dL/dz', then
//! z' <- mean + s_up sqrt(numel) (z' - mean) / ||z' - mean||. With x' = sqrt(abar') z' the gradient
//! is dL/dz' = sqrt(abar') dL/dx', so the step in x' is zeta abar' dL/dx'; the projection keeps its
//! form.
//!
//! With `newton` the ascent knows the operator. As in pseudoinverse guidance, p(x_0 | x') is taken
//! as a normal distribution with the variance r^2 = 1 - abar' around the estimate. The score of the
//! measurement is then g = J^T A^T (r^2 A A^T + s^2)^-1 (y - A x0), where J is the Jacobian of x0
//! and s the standard deviation of the noise in y. A step is x' + newton s_up^2 g, with the
//! variance s_up^2 of p(x_{t-1} | x_t).

use super::dpir::check_proximal;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use std::sync::Arc;

/// Options of `dmap`.
#[derive(Clone, Copy, Debug)]
pub struct Dmap {
    /// Ascent steps per noise level, at least 1.
    pub k: usize,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
    /// Length of a Newton step, 0 for steps along the gradient of the residual norm.
    pub newton: f64,
    /// Conjugate gradient steps of a Newton step, 1 to 200.
    pub cg: usize,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let k = options.count("k", 5, 1..=1000)?;
    let (newton, cg) = (options.number("newton", 0.0, 0.0..=1e6)?, options.count("cg", 8, 1..=200)?);
    if newton > 0.0 && (options.has("step") || options.has("whiten")) {
        return Err(options.error("newton has a length of its own: leave step and whiten out"));
    }
    Ok(Arc::new(Dmap { k, newton, cg, guidance: Guidance::parse(options, StepRule::Polyak(0.4))? }))
}

/// x' + length s_up^2 g
fn newton_step(s: &mut Step<'_>, x: TensorId, x0: TensorId, length: f64, cg: usize) -> Result<TensorId> {
    // The correction is r^2 A^T (r^2 A A^T + s^2)^-1 (y - A x0).
    let rho = s.scalar_of_noise(|m, noise| noise.powi(2) / (1.0 - m.at.alpha_bar));
    let correction = s.proximal_correction(x0, rho, cg)?;
    let g = s.pull_back(x0, correction, x)?;
    let one = s.constant(1.0);
    let by_g = s.scalar(move |m| length * m.level.posterior_sigma.powi(2) / (1.0 - m.at.alpha_bar));
    s.combine("newton", &[(one, x), (by_g, g)])
}

impl Method for Dmap {
    fn method(&self) -> String {
        match self.newton {
            0.0 => format!("dmap:k={},{}", self.k, self.guidance),
            newton => format!("dmap:k={},newton={newton},cg={}", self.k, self.cg),
        }
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, schedule: &Schedule) -> Result<()> {
        if schedule.eta == 0.0 {
            return Err(Error::Invalid("dmap moves within the noise of a step; with eta 0 there is none".into()));
        }
        if self.k == 0 {
            return Err(Error::Invalid("dmap: k=0 would ignore the measurement; choose at least 1".into()));
        }
        if self.newton > 0.0 {
            return check_proximal("dmap with newton", prior, operator);
        }
        self.guidance.check(operator)
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
            let estimate = s.estimate(x)?;
            let (residual, moved) = match self.newton {
                0.0 => {
                    let residual = s.residual(estimate.x0, &self.guidance)?;
                    let gradient = s.gradient(residual, x)?;
                    (residual, s.descend(x, gradient, residual, self.guidance.step, |l| l.alpha_bar_before)?)
                }
                newton => {
                    (s.residual(estimate.x0, &Guidance::PLAIN)?, newton_step(s, x, estimate.x0, newton, self.cg)?)
                }
            };
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
        if self.newton > 0.0 {
            return Some("choose a smaller newton");
        }
        self.guidance.advice()
    }
}
