//! Ancestral sampling with a conditional score estimator (Xu et al. 2025): what it adds to the
//! network makes the score that of p(x_t | y), so no gradient is needed.
//!
//! The paper starts from the noise of the last timestep. With `from` the chain starts at a smaller
//! sigma, from the naive restoration with the noise of that level: x_t = sqrt(abar) x_naive +
//! sqrt(1 - abar) n. Where the noise hides what the naive restoration lacks, this is a draw of
//! p(x_t | y), and no network has to find the colours again.

use super::unconditional::step;
use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::method::{Conditioned, Method, Start};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::{Schedule, power_spaced};
use std::sync::Arc;

/// sigma of the last step of a chain with `from`.
const TO: f64 = 0.01;

/// Options of `cse`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cse {
    /// sigma of the first step, in VE coordinates of images in [-1, 1]; none starts from noise at
    /// the last timestep.
    pub from: Option<f64>,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Cse { from: options.number_if_given("from", 0.05..=100.0)? }))
}

impl Method for Cse {
    fn method(&self) -> String {
        self.from.map_or("cse".into(), |from| format!("cse:from={from}"))
    }
    fn conditioned(&self) -> Conditioned {
        Conditioned::Always
    }
    fn start(&self) -> Start {
        if self.from.is_some() { Start::Baseline } else { Start::Noise }
    }
    fn sigmas(&self, steps: usize, _: f64) -> Option<Vec<f64>> {
        self.from.map(|from| power_spaced(steps, from, TO))
    }
    fn check(&self, prior: &Prior, _: &dyn Operator, _: &Schedule) -> Result<()> {
        match (self.from, prior.latent) {
            (Some(_), Some(_)) => {
                Err(Error::Invalid("from needs a pixel model: a latent has no naive restoration".into()))
            }
            _ => Ok(()),
        }
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        if self.from.is_none() {
            return phases.add("step", step);
        }
        phases.add("start", |s| {
            let x = s.x();
            let (signal, noise) =
                (s.scalar(|m| m.level.alpha_bar.sqrt()), s.scalar(|m| (1.0 - m.level.alpha_bar).sqrt()));
            let n = s.normal("noise", Draw::Start)?;
            let x_t = s.combine("x_t", &[(signal, x), (noise, n)])?;
            s.set_x(x_t);
            Ok(())
        })?;
        phases.add("step", step)
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        if self.from.is_some() && chain.level.index + 1 == chain.level.count {
            chain.run("start")?;
        }
        chain.run("step")
    }
}
