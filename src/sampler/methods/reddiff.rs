//! RED-diff (Mardani et al. 2024, algorithm 1): one image is optimised. At every noise level the
//! network says how it would denoise a noisy version of the image, and this becomes a gradient.
//!
//! With x_t = sqrt(abar) mu + sqrt(1 - abar) n, eps is the noise in x_t according to the network's
//! estimate of x_0, which may be clamped. eps is not differentiated. The loss is
//! mean((y - A(mu))^2) / 2 + weight sigma mean((eps - n) mu), sigma = sqrt((1 - abar) / abar).
//! Adam with betas 0.9 and 0.99 takes one step on it per level. The published start is A^+ y; here
//! it is the baseline.

use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::Guidance;
use crate::sampler::method::{Answer, Method, Start};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `red-diff`.
#[derive(Clone, Copy, Debug)]
pub struct RedDiff {
    /// Learning rate of Adam.
    pub rate: f64,
    /// Weight of the prior's term against the measurement's.
    pub weight: f64,
}

/// Adam's betas, as published.
const BETAS: [f64; 2] = [0.9, 0.99];

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let (rate, weight) = (options.number("rate", 0.1, 1e-9..=1e3)?, options.number("weight", 0.25, 0.0..=1e6)?);
    Ok(Arc::new(RedDiff { rate, weight }))
}

/// Fails for latent models.
pub(super) fn check_pixels(method: &str, prior: &Prior) -> Result<()> {
    match prior.latent {
        None => Ok(()),
        Some(_) => Err(Error::Invalid(format!("{method} needs a pixel model; dmap, dps and resample work"))),
    }
}

impl Method for RedDiff {
    fn method(&self) -> String {
        format!("red-diff:rate={},weight={}", self.rate, self.weight)
    }
    fn answer(&self) -> Answer {
        Answer::Map
    }
    fn start(&self) -> Start {
        Start::Baseline
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, _: &dyn Operator, _: &Schedule) -> Result<()> {
        check_pixels("red-diff", prior)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let RedDiff { rate, weight } = *self;
        phases.add("step", |s| {
            let (mu, n) = (s.x(), s.normal("n", Draw::Ancestral)?);
            let (by_mu, by_n) =
                (s.scalar(|m| m.level.alpha_bar.sqrt()), s.scalar(|m| (1.0 - m.level.alpha_bar).sqrt()));
            let x_t = s.combine("x_t", &[(by_mu, mu), (by_n, n)])?;
            let x0 = s.estimate(x_t)?.x0;
            let eps = s.noise_in(x_t, x0)?;
            let error = s.back_projected_error(mu)?;
            let (values, measured) = (s.setup.image.item() as f64, s.setup.measurement_shape().item() as f64);
            let prior = s.scalar(move |m| weight * m.level.sigma() / values);
            let minus_prior = s.scalar(move |m| -weight * m.level.sigma() / values);
            let minus_data = s.constant(-1.0 / measured);
            let gradient = s.combine("gradient", &[(prior, eps), (minus_prior, n), (minus_data, error)])?;
            let rates = [s.constant(rate), s.constant(0.0)];
            let next = s.adam_step(mu, ["first moment", "second moment"], gradient, rates, BETAS, |m| m.earlier)?;
            let residual = s.residual(mu, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn advice(&self) -> Option<&'static str> {
        Some("choose a smaller rate")
    }
}
