//! Ancestral sampling with a conditional score estimator (Xu et al. 2025): what it adds to the
//! network makes the score that of p(x_t | y), so no gradient is needed.

use super::unconditional::step;
use crate::error::Result;
use crate::options::Options;
use crate::sampler::method::{Conditioned, Method};
use crate::sampler::phases::Phases;
use std::sync::Arc;

/// `cse` has no options.
#[derive(Clone, Copy, Debug)]
pub struct Cse;

pub(super) fn parse(_: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Cse))
}

impl Method for Cse {
    fn method(&self) -> String {
        "cse".into()
    }
    fn conditioned(&self) -> Conditioned {
        Conditioned::Always
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("step", step)
    }
}
