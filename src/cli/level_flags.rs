//! Flags for the number of noise levels of a method.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::{Answer, Noise, Settings};
use clap::Args;

/// `--steps` and `--passes`.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct LevelFlags {
    /// Noise levels visited [default: tuned per method and kind of model]
    #[arg(long)]
    steps: Option<usize>,
    /// As many noise levels as this number of network passes per image allows: forward evaluations
    /// plus VJPs, of one run if there are restarts
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..))]
    passes: Option<u32>,
}

impl LevelFlags {
    /// The settings of a method as the user typed it, `auto` included, with as many levels as the
    /// flags say. Fails if they don't fit model or operator.
    pub fn settings(self, typed: &str, model: &Model, operator: &dyn Operator, noise: Noise) -> Result<Settings> {
        let prior = model.network.prior();
        let passes = self.passes.map(|n| n as usize);
        let mut settings = match (typed, passes) {
            ("auto", _) => Settings::auto(Answer::Map, model, operator, noise, passes)?,
            (typed, _) if typed.starts_with("auto:") => {
                return Err(Error::Invalid("auto takes no options: write the method that they are for".into()));
            }
            (typed, Some(passes)) => Settings::parse(typed, &prior)?.within(passes, model)?,
            (typed, None) => Settings::parse(typed, &prior)?,
        };
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.check_conditioned(model)?;
        settings.check(&prior, operator)?;
        Ok(settings)
    }
}
