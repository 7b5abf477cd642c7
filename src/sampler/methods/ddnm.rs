//! DDNM (Wang et al. 2023, algorithm 1): the measurement replaces the part of the estimate of x_0
//! that it determines. The part in the null space of A stays as the model estimates it.
//!
//! x0' = x0 + kappa A^+ (y - A x0), x_{t-1} = sqrt(abar') x0' + gamma (eta n + sqrt(1 - eta^2)
//! eps). Without noise kappa is 1 and gamma^2 is 1 - abar'. If y has noise of standard deviation s,
//! the correction adds noise of standard deviation sqrt(abar') kappa s to x_{t-1}. Therefore kappa
//! and gamma follow DDNM+, but with one kappa for all singular values: kappa = min(1, sqrt(1 -
//! abar') / (sqrt(abar') s)), gamma^2 = 1 - abar' - abar' kappa^2 s^2.

use super::dpir::check_proximal;
use crate::error::Result;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::Guidance;
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `ddnm`.
#[derive(Clone, Copy, Debug)]
pub struct Ddnm {
    /// Share of fresh noise in x_{t-1}, 0 to 1.
    pub eta: f64,
    /// Conjugate gradient steps for the pseudo-inverse, 1 to 200.
    pub cg: usize,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Ddnm { eta: options.number("eta", 0.85, 0.0..=1.0)?, cg: options.count("cg", 8, 1..=200)? }))
}

/// kappa for noise of standard deviation `s`.
fn kappa(l: &Level, s: f64) -> f64 {
    ((1.0 - l.alpha_bar_before) / l.alpha_bar_before).sqrt().min(s) / s
}

/// gamma for noise of standard deviation `s`.
fn gamma(l: &Level, s: f64) -> f64 {
    (1.0 - l.alpha_bar_before - l.alpha_bar_before * (kappa(l, s) * s).powi(2)).max(0.0).sqrt()
}

impl Method for Ddnm {
    fn method(&self) -> String {
        format!("ddnm:eta={},cg={}", self.eta, self.cg)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        check_proximal("ddnm", prior, operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let Ddnm { eta, cg } = *self;
        phases.add("step", |s| {
            let x = s.x();
            let x0 = s.estimate(x)?.x0;
            let eps = s.noise_in(x, x0)?;
            let exact = s.constant(0.0);
            let ranged = s.proximal(x0, exact, cg)?;
            let moved = s.scalar_of_noise(|m, noise| kappa(&m.level, noise));
            let kept = s.scalar_of_noise(|m, noise| 1.0 - kappa(&m.level, noise));
            let corrected = s.combine("x0'", &[(moved, ranged), (kept, x0)])?;
            let n = s.normal("noise", Draw::Ancestral)?;
            let by_x0 = s.scalar(|m| m.level.alpha_bar_before.sqrt());
            let by_n = s.scalar_of_noise(move |m, noise| eta * gamma(&m.level, noise));
            let by_eps = s.scalar_of_noise(move |m, noise| (1.0 - eta * eta).sqrt() * gamma(&m.level, noise));
            let next = s.combine("next", &[(by_x0, corrected), (by_n, n), (by_eps, eps)])?;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
}
