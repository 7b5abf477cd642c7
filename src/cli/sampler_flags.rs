//! Flags that set up a sampler.

use super::old_flags::OldFlags;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::{Answer, Method, Settings, Spacing, Variance, auto_method, method};
use clap::{Args, ValueEnum};

/// Flags that set up a sampler.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplerFlags {
    /// Method with its options: dmap, dps:step=polyak:0.3, dmap:k=5,whiten=0 ... (`dmap tasks`
    /// lists all); auto takes the best for task, model and --estimate
    #[arg(long, default_value = "auto")]
    pub method: String,
    /// `map`: one best image. `sample`: a draw of the posterior, different for every seed [default:
    /// what the method gives, map for auto]
    #[arg(long, value_enum)]
    pub estimate: Option<EstimateFlag>,
    /// Noise levels visited [default: tuned per method and kind of model]
    #[arg(long)]
    pub steps: Option<usize>,
    /// As many noise levels as this number of network passes per image allows: forward evaluations
    /// plus VJPs
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..))]
    pub passes: Option<u32>,
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

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
pub(crate) enum EstimateFlag {
    Map,
    Sample,
}

impl EstimateFlag {
    fn answer(self) -> Answer {
        match self {
            EstimateFlag::Map => Answer::Map,
            EstimateFlag::Sample => Answer::Sample,
        }
    }
}

/// Fails if the user asks for one kind of answer and the method gives the other.
fn check_answer(asked: Option<EstimateFlag>, samples: u32, typed: &str, method: &dyn Method) -> Result<()> {
    let name = method::name(method);
    let reason = match (asked, method.answer()) {
        (Some(EstimateFlag::Map), _) if samples > 1 => {
            format!("--samples {samples}: --estimate map is one image; leave one of them out")
        }
        (Some(EstimateFlag::Map), Answer::Sample) if typed == "auto" => {
            complain!(
                "dmap: no method gives one best image of latents or of tasks that are not linear: {name} draws a sample"
            );
            return Ok(());
        }
        (Some(EstimateFlag::Map), Answer::Sample) => {
            format!("--estimate map: {name} draws samples; leave --estimate out, or --method")
        }
        (Some(EstimateFlag::Sample), Answer::Map) => {
            format!("--estimate sample: {name} gives one best image and no samples; dmap, dps and others do")
        }
        (None, Answer::Map) if samples > 1 => {
            format!("--samples {samples}: {name} gives one best image and no samples; dmap, dps and others do")
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(reason))
}

impl SamplerFlags {
    /// The settings that these flags select for a model, a task and a number of samples.
    pub fn settings(&self, model: &Model, operator: &dyn Operator, samples: u32) -> Result<Settings> {
        let prior = &model.network.prior();
        let usual = if samples > 1 { Answer::Sample } else { Answer::Map };
        let answer = self.estimate.map_or(usual, EstimateFlag::answer);
        let passes = self.passes.map(|passes| passes as usize);
        let best = auto_method(answer, prior, operator, passes);
        let typed = match &self.method[..] {
            "auto" if self.old.are_given() => "dmap",
            typed if typed.starts_with("auto:") => {
                return Err(Error::Invalid("auto takes no options: write the method that they are for".into()));
            }
            "auto" => &best,
            typed => typed,
        };
        let from_old = self.old.method(typed)?;
        let mut settings = Settings::parse(from_old.as_deref().unwrap_or(typed), prior)?;
        check_answer(self.estimate, samples, &self.method, settings.method.as_ref())?;
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
        if let Some(passes) = passes {
            settings = settings.within(passes, model).map_err(|e| match e {
                Error::Invalid(reason) => Error::Invalid(format!("--passes {passes}: {reason}")),
                other => other,
            })?;
        }
        settings.check(prior, operator)?;
        if let Some(method) = from_old {
            complain!("dmap: flags of single methods are options of the method now: write --method {method}");
        }
        Ok(settings)
    }
}
