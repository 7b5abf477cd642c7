//! Ancestral sampling of the prior without a measurement (Ho et al. 2020, algorithm 2).

use crate::error::Result;
use crate::options::Options;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::step::Step;
use std::sync::Arc;

/// `unconditional` has no options.
#[derive(Clone, Copy, Debug)]
pub struct Unconditional;

pub(super) fn parse(_: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Unconditional))
}

/// x_{t-1} ~ p(x_{t-1} | x_t), or p(x_{t-1} | x_t, y) with a conditional score estimator.
pub(super) fn step(s: &mut Step<'_>) -> Result<()> {
    let x = s.x();
    let estimate = s.estimate(x)?;
    let p = s.posterior(estimate)?;
    s.set_x(p.sample);
    Ok(())
}

impl Method for Unconditional {
    fn method(&self) -> String {
        "unconditional".into()
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("step", step)
    }
}
