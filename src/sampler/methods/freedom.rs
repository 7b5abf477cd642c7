//! FreeDoM (Yu et al. 2023): DPS steps. In the middle of the chain, time travel repeats them: noise
//! is added again and the step is taken again.
//!
//! Between two of the `passes` at a level, x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n in VP
//! coordinates. As published, the repeated levels have 40 to 70 % of the steps still to go.

use super::dps;
use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::{Guidance, StepRule};
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `freedom`.
#[derive(Clone, Copy, Debug)]
pub struct Freedom {
    /// Passes at each repeated level, at least 1.
    pub passes: usize,
    /// Residual, and length of a step along its gradient.
    pub guidance: Guidance,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let passes = options.count("passes", 2, 1..=1000)?;
    Ok(Arc::new(Freedom { passes, guidance: Guidance::parse(options, StepRule::Polyak(0.3))? }))
}

/// True at the levels that are repeated, in the middle of the chain.
fn is_repeated(level: Level) -> bool {
    let (i, steps) = (level.index, level.count);
    10 * i >= 4 * steps && 10 * i < 7 * steps
}

impl Method for Freedom {
    fn method(&self) -> String {
        format!("freedom:passes={},{}", self.passes, self.guidance)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if self.passes == 0 {
            return Err(Error::Invalid("freedom: passes=0 would take no step; choose at least 1".into()));
        }
        self.guidance.check(operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            dps::step(s, &self.guidance, (estimate, estimate))
        })?;
        phases.add("travel", |s| {
            // x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n
            let x = s.x();
            let (by_x, by_n) = (s.scalar(|m| (1.0 - m.level.beta).sqrt()), s.scalar(|m| m.level.beta.sqrt()));
            // The first travel precedes pass number 1, counted from 0.
            let n = s.normal("noise", Draw::Travel.round(1))?;
            let back = s.combine("travel", &[(by_x, x), (by_n, n)])?;
            s.set_x(back);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("step")?;
        for _ in 1..if is_repeated(chain.level) { self.passes } else { 1 } {
            chain.run("travel")?;
            chain.run("step")?;
        }
        Ok(())
    }
    fn advice(&self) -> Option<&'static str> {
        self.guidance.advice()
    }
}
