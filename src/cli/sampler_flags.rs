//! Flags that set up a sampler.

use super::old_flags::OldFlags;
use crate::error::{Error, Result, shown};
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::preset::Preset;
use crate::sampler::{Answer, Method, Noise, Settings, Spacing, Variance, method};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

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
    /// plus VJPs, of one run if there are restarts
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..))]
    pub passes: Option<u32>,
    /// Method and levels from a file that `dmap tune` wrote, for the task and the nearest noise; or
    /// `paper`: DMAP as published
    #[arg(long, value_name = "FILE|paper", conflicts_with_all = ["method", "steps", "passes"])]
    pub preset: Option<PathBuf>,
    /// Variance of the ancestral step
    #[arg(long, value_enum, default_value = "fixed-small")]
    pub variance: VarianceFlag,
    /// Which noise levels are visited [default: quadratic, of the preset `paper` linspace]
    #[arg(long, value_enum)]
    pub spacing: Option<SpacingFlag>,
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
    pub fn answer(self) -> Answer {
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
                "dmap: no method gives one best image of latents, of tasks that are not linear or with --cse: {name} draws a \
                 sample"
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
    /// The same with a budget of network passes.
    pub fn within(&self, passes: u32) -> SamplerFlags {
        SamplerFlags { passes: Some(passes), ..self.clone() }
    }

    /// The settings that these flags select for a model, a task, its noise and a number of samples.
    pub fn settings(&self, model: &Model, operator: &dyn Operator, noise: Noise, samples: u32) -> Result<Settings> {
        let prior = &model.network.prior();
        let usual = if samples > 1 { Answer::Sample } else { Answer::Map };
        let answer = self.estimate.map_or(usual, EstimateFlag::answer);
        if let Some(preset) = &self.preset {
            let settings = self.with_schedule(of_preset(preset, model, operator, noise, answer)?);
            check_answer(self.estimate, samples, "", settings.method.as_ref())?;
            settings.check_conditioned(model)?;
            settings.check(prior, operator)?;
            return Ok(settings);
        }
        let passes = self.passes.map(|passes| passes as usize);
        let of_passes = |e: Error| match (e, passes) {
            (Error::Invalid(reason), Some(passes)) => Error::Invalid(format!("--passes {passes}: {reason}")),
            (other, _) => other,
        };
        let typed = match &self.method[..] {
            "auto" if self.old.are_given() => "dmap",
            typed if typed.starts_with("auto:") => {
                return Err(Error::Invalid("auto takes no options: write the method that they are for".into()));
            }
            typed => typed,
        };
        let from_old = self.old.method(typed)?;
        let mut settings = match typed {
            "auto" => Settings::auto(answer, model, operator, noise, passes).map_err(of_passes)?,
            _ => Settings::parse(from_old.as_deref().unwrap_or(typed), prior)?,
        };
        check_answer(self.estimate, samples, &self.method, settings.method.as_ref())?;
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings = self.with_schedule(settings);
        if let (Some(passes), false) = (passes, typed == "auto") {
            settings = settings.within(passes, model).map_err(of_passes)?;
        }
        settings.check_conditioned(model)?;
        settings.check(prior, operator)?;
        if let Some(method) = from_old {
            complain!("dmap: flags of single methods are options of the method now: write --method {method}");
        }
        Ok(settings)
    }

    /// These settings with the flags' variance, spacing, eta and limit.
    fn with_schedule(&self, settings: Settings) -> Settings {
        let variance = match self.variance {
            VarianceFlag::FixedSmall => Variance::FixedSmall,
            VarianceFlag::FixedLarge => Variance::FixedLarge,
            VarianceFlag::LearnedRange => Variance::LearnedRange,
        };
        let spacing = match self.spacing {
            None => settings.spacing,
            Some(SpacingFlag::Linear) => Spacing::Linear,
            Some(SpacingFlag::Quadratic) => Spacing::Quadratic,
            Some(SpacingFlag::Linspace) => Spacing::Linspace,
            Some(SpacingFlag::Leading) => Spacing::Leading,
            Some(SpacingFlag::Trailing) => Spacing::Trailing,
        };
        settings.variance(variance).spacing(spacing).eta(self.eta).clip(!self.no_clip)
    }
}

/// The settings of a preset, `paper` or a file.
fn of_preset(preset: &Path, model: &Model, operator: &dyn Operator, noise: Noise, answer: Answer) -> Result<Settings> {
    let prior = model.network.prior();
    if preset == Path::new("paper") {
        return Settings::paper(&prior, operator);
    }
    let read = Preset::read(preset)?;
    if read.model_sha256 != model.sha256()? {
        complain!("dmap: {} was tuned with another model or configuration", shown(preset));
    }
    let row = read.row(operator, noise, answer).map_err(|e| Error::Invalid(format!("{}: {e}", shown(preset))))?;
    row.settings(&prior).map_err(|e| Error::Invalid(format!("{}: {e}", shown(preset))))
}
