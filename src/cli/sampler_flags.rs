//! Flags that set up a sampler.

use super::old_flags::OldFlags;
use crate::error::Result;
use crate::model::Prior;
use crate::operator::Operator;
use crate::sampler::{Settings, Spacing, Variance};
use clap::{Args, ValueEnum};

/// Flags that set up a sampler.
#[derive(Args, Debug, Clone)]
pub(crate) struct SamplerFlags {
    /// Method with its options: dmap, dps:step=polyak:0.3, dmap:k=5,whiten=0 ... (`dmap tasks` lists all)
    #[arg(long, default_value = "dmap")]
    pub method: String,
    /// Noise levels visited [default: tuned per method and kind of model]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Variance of the ancestral step
    #[arg(long, value_enum, default_value = "fixed-small")]
    pub variance: VarianceFlag,
    /// Which noise levels are visited
    #[arg(long, value_enum, default_value = "quadratic")]
    pub spacing: SpacingFlag,
    /// Share of the posterior's noise that a step adds: 1 is ancestral sampling, 0 DDIM
    #[arg(long, default_value_t = 1.0)]
    pub eta: f64,
    /// Do not limit the estimate of the clean image to [-1, 1]
    #[arg(long)]
    pub no_clip: bool,
    #[command(flatten)]
    old: OldFlags,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub(crate) enum VarianceFlag {
    FixedSmall,
    FixedLarge,
    LearnedRange,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
pub(crate) enum SpacingFlag {
    Linear,
    Quadratic,
    Linspace,
    Leading,
    Trailing,
}

impl SamplerFlags {
    /// The settings that these flags mean for a model and a task.
    pub fn settings(&self, prior: &Prior, operator: &dyn Operator) -> Result<Settings> {
        let from_old = self.old.method(&self.method)?;
        let mut settings = Settings::parse(from_old.as_ref().unwrap_or(&self.method), prior)?;
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.variance = match self.variance {
            VarianceFlag::FixedSmall => Variance::FixedSmall,
            VarianceFlag::FixedLarge => Variance::FixedLarge,
            VarianceFlag::LearnedRange => Variance::LearnedRange,
        };
        settings.spacing = match self.spacing {
            SpacingFlag::Linear => Spacing::Linear,
            SpacingFlag::Quadratic => Spacing::Quadratic,
            SpacingFlag::Linspace => Spacing::Linspace,
            SpacingFlag::Leading => Spacing::Leading,
            SpacingFlag::Trailing => Spacing::Trailing,
        };
        settings.eta = self.eta;
        settings.clip = !self.no_clip;
        settings.check(prior, operator)?;
        if let Some(method) = from_old {
            complain!("dmap: flags of single methods are options of the method now: write --method {method}");
        }
        Ok(settings)
    }
}
