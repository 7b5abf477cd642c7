//! `dmap tune`: searches the options of methods on a folder of photos and writes what restores them
//! best as a preset.

mod climb;

use super::device::DeviceFlags;
use super::inputs::expand;
use super::prior_flags::{PriorFlags, warn};
use super::sampler_flags::EstimateFlag;
use super::{go_on, interrupted, quantity};
use crate::backend::Device;
use crate::error::{Error, ErrorKind, Result, shown};
use crate::graph::PlanOptions;
use crate::image::{Photo, Picture, ReadOptions, write_whole};
use crate::model::Model;
use crate::operator::{Operator, parse_task};
use crate::sampler::preset::{HeldOut, Preset, PresetRow};
use crate::sampler::{Answer, Noise, Settings};
use crate::trial::{Score, Trial};
use climb::{Start, climb};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  dmap tune photos/ --task sr4 --noise 0.05 --out sr4.json
  dmap restore more/ --task sr4 --noise 0.05 --preset sr4.json --out sr4
  dmap tune photos/ --task gaussian-blur --method dps --method dmap:k=3 --estimate sample --out blur.json";

/// Flags of `dmap tune`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Tune {
    /// Photos, folders or patterns
    #[arg(required = true)]
    photos: Vec<PathBuf>,
    /// What degrades the photos; may be given several times
    #[arg(long = "task", required = true)]
    tasks: Vec<String>,
    /// Noise of the measurement as for `dmap restore`; may be given several times
    #[arg(long = "noise", value_name = "SIGMA|poisson:RATE", default_value = "0.025")]
    noises: Vec<String>,
    /// Method to search, several times for several methods; options that it is given stay as they
    /// are [default: the one that auto takes]
    #[arg(long = "method")]
    methods: Vec<String>,
    /// Network passes of one image: forward evaluations plus VJPs
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// `map` looks for the highest PSNR; `sample` for the best distribution of two samples (the
    /// continuous ranked probability score)
    #[arg(long, value_enum, default_value = "map")]
    estimate: EstimateFlag,
    /// Take the centre of each photo: S or WxH pixels
    #[arg(long, value_name = "S|WxH", default_value = "128")]
    size: String,
    /// Leave every second photo out of the search and report on those as well
    #[arg(long)]
    hold_out: bool,
    /// Seed of mask, kernel, measurement noise and sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    prior: PriorFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// File for the preset
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: PathBuf,
    /// Write over an existing preset
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
}

/// What all trials share.
struct Tuning<'a> {
    model: &'a Model,
    label: Option<u32>,
    methods: &'a [String],
    passes: usize,
    answer: Answer,
    seed: u64,
    plan: PlanOptions,
    device: &'a Device,
    searched: Vec<Picture>,
    held_out: Vec<Picture>,
}

/// Means over photos.
#[derive(Clone, Copy)]
struct Means {
    psnr: f64,
    crps: f64,
}

impl Means {
    /// What the search makes as large as it can.
    fn goal(self, answer: Answer) -> f64 {
        if answer == Answer::Map { self.psnr } else { -self.crps }
    }
}

/// The search for one task and noise.
struct Search<'a> {
    tuning: &'a Tuning<'a>,
    operator: &'a Arc<dyn Operator>,
    noise: Noise,
    bar: ProgressBar,
    /// Means over the searched photos of the methods that were tried, none for those that failed.
    tried: BTreeMap<String, Option<Means>>,
}

impl Search<'_> {
    /// The settings of a method within the budget. Fails if it gives the other kind of answer.
    fn settings(&self, method: &str) -> Result<Settings> {
        let (prior, asked) = (self.tuning.model.network.prior(), self.tuning.answer);
        let settings = Settings::parse(method, &prior)?;
        if settings.method.answer() != asked {
            let (found, asked) = (settings.method.answer().name(), asked.name());
            return Err(Error::Invalid(format!("{method} gives --estimate {found}, not {asked}")));
        }
        settings.check(&prior, self.operator.as_ref())?;
        settings.within(self.tuning.passes, self.tuning.model)
    }

    /// Means of these settings over photos. Fails after Ctrl-C.
    fn means(&self, settings: &Settings, photos: &[Picture]) -> Result<Means> {
        let Tuning { model, label, seed, plan, device, answer, .. } = *self.tuning;
        let samples = if answer == Answer::Sample { 2 } else { 1 };
        let (operator, settings, noise) = (self.operator, settings.clone(), self.noise);
        let trial = Trial { model, label, operator, settings, noise, seed, samples, restarts: 1, plan, device };
        let scores = trial.run(photos, go_on)?;
        let mean = |of: fn(&Score) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
        Ok(Means { psnr: mean(|s| s.sample_psnr), crps: mean(|s| s.crps) })
    }

    /// Means over the searched photos; none if the options do not fit each other, the model or the
    /// budget, or if the values of the run diverge.
    fn tried(&mut self, method: &str) -> Result<Option<Means>> {
        let settings = match self.settings(method) {
            Err(Error::Invalid(_)) => return Ok(None),
            other => other?,
        };
        let name = settings.method.method();
        if let Some(known) = self.tried.get(&name) {
            return Ok(*known);
        }
        self.bar.set_message(name.clone());
        self.bar.inc(1);
        let found = match self.means(&settings, &self.tuning.searched) {
            Err(Error::NotFinite { .. } | Error::Invalid(_)) => None,
            other => Some(other?),
        };
        self.tried.insert(name, found);
        Ok(found)
    }

    /// The best settings of all methods.
    fn run(mut self) -> Result<PresetRow> {
        let Tuning { model, methods, passes, answer, .. } = *self.tuning;
        let auto = Settings::auto(answer, model, self.operator.as_ref(), self.noise, Some(passes))?;
        let starts = match methods {
            [] => vec![Start { method: auto.method.method(), is_free: true }],
            typed => typed.iter().map(|m| Start { method: m.clone(), is_free: false }).collect(),
        };
        let mut best: Option<(f64, String)> = None;
        for start in starts {
            // The error says what is wrong with the method that the user typed.
            self.settings(&start.method)?;
            let (goal, method) = climb(&start, |m| Ok(self.tried(m)?.map(|means| means.goal(answer))))?;
            if best.as_ref().is_none_or(|(most, _)| goal > *most) {
                best = Some((goal, method));
            }
        }
        let (_, method) = best.expect("there is at least one method");
        let settings = self.settings(&method)?;
        let psnr = self.tried(&method)?.map_or(f64::NAN, |means| means.psnr);
        // Without a method of the user's, the search began with auto's settings.
        let psnr_of_auto = match self.tried.get(&auto.method.method()) {
            Some(Some(means)) => means.psnr,
            _ => self.means(&auto, &self.tuning.searched)?.psnr,
        };
        let held_out = match &self.tuning.held_out[..] {
            [] => None,
            photos => Some(HeldOut {
                photos: photos.len(),
                psnr: rounded(self.means(&settings, photos)?.psnr),
                psnr_of_auto: rounded(self.means(&auto, photos)?.psnr),
            }),
        };
        Ok(PresetRow {
            task: self.operator.task(),
            noise: self.noise.to_string(),
            estimate: answer.name().into(),
            method: settings.method.method(),
            steps: settings.steps,
            passes: settings.passes(model)?,
            photos: self.tuning.searched.len(),
            psnr: rounded(psnr),
            psnr_of_auto: rounded(psnr_of_auto),
            held_out,
        })
    }
}

/// To thousandths of a dB.
fn rounded(psnr: f64) -> f64 {
    (psnr * 1000.0).round() / 1000.0
}

pub(super) fn run(flags: Tune) -> anyhow::Result<ExitCode> {
    if flags.out.exists() && !flags.overwrite {
        let reason = format!("{} exists; choose another --out, or give --overwrite", shown(&flags.out));
        return Err(Error::Invalid(reason).into());
    }
    if let Some(folder) = flags.out.parent().filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        let reason = format!("{}: there is no folder {} to write it into", shown(&flags.out), shown(folder));
        return Err(Error::Invalid(reason).into());
    }
    let crop = quantity::size(&flags.size)?;
    let noises = flags.noises.iter().map(|n| n.parse::<Noise>()).collect::<Result<Vec<_>>>();
    let noises = noises.map_err(|e| Error::Invalid(format!("--{e}")))?;
    let operators = flags.tasks.iter().map(|t| parse_task(t)).collect::<Result<Vec<_>>>()?;
    let mut photos = Vec::new();
    for input in expand(&flags.photos)? {
        photos.push(Photo::read_with(&input.path, &ReadOptions::default().crop(crop))?.picture);
    }
    let (mut searched, mut held_out) = (Vec::new(), Vec::new());
    for (i, photo) in photos.into_iter().enumerate() {
        if flags.hold_out && i % 2 == 1 { held_out.push(photo) } else { searched.push(photo) }
    }
    if flags.hold_out && held_out.is_empty() {
        return Err(Error::Invalid("--hold-out needs at least two photos".into()).into());
    }
    let model = flags.prior.open()?;
    warn(&model);
    let device = flags.device.open()?;
    let tuning = Tuning {
        model: &model,
        label: flags.prior.checked_label(&model.network.prior())?,
        methods: &flags.methods,
        passes: flags.passes as usize,
        answer: flags.estimate.answer(),
        seed: flags.seed,
        plan: flags.device.plan()?,
        device: &device,
        searched,
        held_out,
    };
    interrupted();
    let mut preset = Preset { model_sha256: model.sha256()?, rows: Vec::new() };
    for operator in &operators {
        for &noise in &noises {
            let bar = ProgressBar::no_length().with_style(
                ProgressStyle::with_template("{prefix}: {pos} settings tried, {elapsed}; {msg}").expect("a template"),
            );
            bar.set_prefix(format!("{}, noise {noise}", operator.task()));
            let search = Search { tuning: &tuning, operator, noise, bar: bar.clone(), tried: BTreeMap::new() };
            let row = search.run();
            bar.finish_and_clear();
            let row = match row {
                Err(Error::Cancelled) => return Ok(ExitCode::from(ErrorKind::Cancelled.exit_code())),
                other => other?,
            };
            say!("{}", line(&row))?;
            preset.rows.push(row);
            // Written after each row: Ctrl-C leaves the rows that are finished.
            let text = serde_json::to_string_pretty(&preset)? + "\n";
            write_whole(&flags.out, text.as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(row: &PresetRow) -> String {
    let PresetRow { task, noise, method, steps, passes, photos, psnr, psnr_of_auto, .. } = row;
    let held_out = row.held_out.as_ref().map_or(String::new(), |h| {
        format!("; {} held out {:.2} dB, with auto {:.2}", h.photos, h.psnr, h.psnr_of_auto)
    });
    format!(
        "{task}, noise {noise}: {method}, {steps} levels, {passes} passes: {photos} photos {psnr:.2} dB, with auto \
         {psnr_of_auto:.2}{held_out}"
    )
}
