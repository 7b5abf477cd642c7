//! DiffPIR (Zhu et al. 2023, algorithm 1): at every noise level a proximal step moves the estimate
//! of x_0 to a near image that explains the measurement. x_{t-1} is drawn around this image.
//!
//! s is the standard deviation of the noise in y. rho = lambda s^2 / sigma^2, x0' = prox(x0),
//! eps' = (x_t - sqrt(abar) x0') / sqrt(1 - abar), x_{t-1} = sqrt(abar') x0' + sqrt(1 - abar')
//! (sqrt(1 - zeta) eps' + sqrt(zeta) n).

use super::dpir::check_proximal;
use crate::error::Result;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::Guidance;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `diffpir`.
#[derive(Clone, Copy, Debug)]
pub struct Diffpir {
    /// Weight of the prior (the model) against the measurement.
    pub lambda: f64,
    /// Share of fresh noise in x_{t-1}, 0 to 1.
    pub zeta: f64,
    /// Conjugate gradient steps of a proximal step, 1 to 200.
    pub cg: usize,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Diffpir {
        lambda: options.number("lambda", 1.0, 1e-6..=1e6)?,
        zeta: options.number("zeta", 0.1, 0.0..=1.0)?,
        cg: options.count("cg", 8, 1..=200)?,
    }))
}

impl Method for Diffpir {
    fn method(&self) -> String {
        format!("diffpir:lambda={},zeta={},cg={}", self.lambda, self.zeta, self.cg)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        check_proximal("diffpir", prior, operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let Diffpir { lambda, zeta, cg } = *self;
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            let rho = s.scalar_of_noise(move |m, noise| lambda * (noise / m.level.sigma()).powi(2));
            let x0 = s.proximal(estimate.x0, rho, cg)?;
            let eps = s.noise_in(x, x0)?;
            let n = s.normal("noise", Draw::Ancestral)?;
            let by_x0 = s.scalar(|m| m.level.alpha_bar_before.sqrt());
            let by_eps = s.scalar(move |m| ((1.0 - zeta) * (1.0 - m.level.alpha_bar_before)).sqrt());
            let by_n = s.scalar(move |m| (zeta * (1.0 - m.level.alpha_bar_before)).sqrt());
            let next = s.combine("next", &[(by_x0, x0), (by_eps, eps), (by_n, n)])?;
            let residual = s.residual(estimate.x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
}
