//! Pseudoinverse-guided diffusion (Song et al. 2023, algorithm 1, with noise). The score of the
//! measurement follows from a normal p(x_0 | x_t) around the estimate, with the variance r^2 =
//! sigma^2 / (1 + sigma^2).
//!
//! g = J^T A^T (r^2 A A^T + s^2)^-1 r^2 (y - A x0), where J is the Jacobian of x0 with respect to
//! x_t, and s is the standard deviation of the noise in y; x_{t-1} = sqrt(abar') x0 + c1 n + c2
//! eps + sqrt(abar abar') g, c1 = eta sqrt((1 - abar / abar') (1 - abar') / (1 - abar)), c2 =
//! sqrt(1 - abar' - c1^2).

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

/// Options of `pigdm`.
#[derive(Clone, Copy, Debug)]
pub struct Pigdm {
    /// Noise that a step adds, as a share of the posterior's standard deviation, 0 to 1.
    pub eta: f64,
    /// Conjugate gradient steps for the inverse, 1 to 200.
    pub cg: usize,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Pigdm { eta: options.number("eta", 0.2, 0.0..=1.0)?, cg: options.count("cg", 8, 1..=200)? }))
}

/// c1 for eta = 1.
fn noise(l: &Level) -> f64 {
    let (bar, before) = (l.alpha_bar, l.alpha_bar_before);
    ((1.0 - bar / before) * (1.0 - before) / (1.0 - bar)).sqrt()
}

impl Method for Pigdm {
    fn method(&self) -> String {
        format!("pigdm:eta={},cg={}", self.eta, self.cg)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        check_proximal("pigdm", prior, operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let Pigdm { eta, cg } = *self;
        phases.add("step", |s| {
            let x = s.x();
            let x0 = s.estimate(x)?.x0;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            let eps = s.noise_in(x, x0)?;
            let rho = s.scalar_of_noise(|m, noise| noise.powi(2) * (1.0 + m.level.sigma().powi(-2)));
            let correction = s.proximal_correction(x0, rho, cg)?;
            let g = s.pull_back(x0, correction, x)?;
            let n = s.normal("noise", Draw::Ancestral)?;
            let by_x0 = s.scalar(|m| m.level.alpha_bar_before.sqrt());
            let by_n = s.scalar(move |m| eta * noise(&m.level));
            let by_eps =
                s.scalar(move |m| (1.0 - m.level.alpha_bar_before - (eta * noise(&m.level)).powi(2)).max(0.0).sqrt());
            let by_g = s.scalar(|m| (m.level.alpha_bar * m.level.alpha_bar_before).sqrt());
            let next = s.combine("next", &[(by_x0, x0), (by_n, n), (by_eps, eps), (by_g, g)])?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
}
