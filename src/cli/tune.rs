//! `dmap tune`: searches the options of methods on a folder of photos and writes what restores them
//! best as a preset.

mod climb;

use super::device::DeviceFlags;
use super::inputs::expand;
use super::sampler_flags::EstimateFlag;
use super::{interrupted, quantity};
use crate::backend::Device;
use crate::error::{Error, ErrorKind, Result, shown};
use crate::graph::PlanOptions;
use crate::image::{Photo, Picture, ReadOptions, write_whole};
use crate::model::Model;
use crate::operator::{Operator, parse_task};
use crate::sampler::preset::{HeldOut, Preset, PresetRow, estimate_name};
use crate::sampler::{Answer, Noise, Settings};
use crate::trial::Trial;
use climb::{Start, climb};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    /// Weight file of the prior, or folder of a latent model in diffusers layout; `photo` and
    /// `tiny-latent` are inside the program
    #[arg(long, default_value = "photo")]
    model: String,
    #[command(flatten)]
    device: DeviceFlags,
    /// File for the preset
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over an existing preset
    #[arg(long)]
    overwrite: bool,
}

/// What all trials share.
struct Tuning<'a> {
    model: &'a Model,
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
struct Means {
    psnr: f64,
    crps: f64,
}

impl Tuning<'_> {
    /// Means of these settings over photos. Fails after Ctrl-C.
    fn means(
        &self,
        operator: &Arc<dyn Operator>,
        noise: Noise,
        settings: &Settings,
        photos: &[Picture],
    ) -> Result<Means> {
        let trial = Trial {
            model: self.model,
            operator,
            settings: settings.clone(),
            noise,
            seed: self.seed,
            samples: if self.answer == Answer::Sample { 2 } else { 1 },
            plan: self.plan,
            device: self.device,
        };
        let mut means = Means { psnr: 0.0, crps: 0.0 };
        for photo in photos {
            let score = trial.run(photo)?;
            if interrupted().load(Ordering::SeqCst) {
                return Err(Error::Cancelled);
            }
            means.psnr += score.sample_psnr / photos.len() as f64;
            means.crps += score.crps / photos.len() as f64;
        }
        Ok(means)
    }

    /// What the search makes as large as it can.
    fn goal(&self, means: &Means) -> f64 {
        match self.answer {
            Answer::Map => means.psnr,
            Answer::Sample => -means.crps,
        }
    }

    /// The goal of a method with options; none if the options do not fit each other, the model or
    /// the budget, or if the values of the run diverge.
    fn goal_of(&self, operator: &Arc<dyn Operator>, noise: Noise, method: &str) -> Result<Option<f64>> {
        let tried =
            self.settings(operator, method).and_then(|settings| self.means(operator, noise, &settings, &self.searched));
        match tried {
            Ok(means) => Ok(Some(self.goal(&means))),
            Err(Error::NotFinite { .. } | Error::Invalid(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The settings of a method within the budget. Fails if it gives the other kind of answer.
    fn settings(&self, operator: &Arc<dyn Operator>, method: &str) -> Result<Settings> {
        let prior = self.model.network.prior();
        let settings = Settings::parse(method, &prior)?;
        if settings.method.answer() != self.answer {
            let [found, asked] = [settings.method.answer(), self.answer].map(estimate_name);
            return Err(Error::Invalid(format!("{method} gives --estimate {found}, not {asked}")));
        }
        settings.check(&prior, operator.as_ref())?;
        settings.within(self.passes, self.model)
    }

    /// Searches the methods for one task and noise.
    fn row(&self, operator: &Arc<dyn Operator>, noise: Noise, bar: &ProgressBar) -> Result<PresetRow> {
        let auto = Settings::auto_within(self.answer, self.model, operator.as_ref(), noise, self.passes)?;
        let starts = match self.methods {
            [] => vec![Start { method: auto.method.method(), is_free: true }],
            typed => typed.iter().map(|m| Start { method: m.clone(), is_free: false }).collect(),
        };
        let mut best: Option<(f64, String)> = None;
        for start in starts {
            // The error says what is wrong with the method that the user typed.
            self.settings(operator, &start.method)?;
            let score = |method: &str| {
                bar.set_message(method.to_string());
                bar.inc(1);
                self.goal_of(operator, noise, method)
            };
            let (goal, method) = climb(&start, score)?;
            if best.as_ref().is_none_or(|(most, _)| goal > *most) {
                best = Some((goal, method));
            }
        }
        let (_, method) = best.expect("there is at least one method");
        let settings = self.settings(operator, &method)?;
        let psnr = |settings: &Settings, photos| self.means(operator, noise, settings, photos).map(|m| m.psnr);
        let held_out = match &self.held_out[..] {
            [] => None,
            photos => {
                let (psnr, psnr_of_auto) = (rounded(psnr(&settings, photos)?), rounded(psnr(&auto, photos)?));
                Some(HeldOut { photos: photos.len(), psnr, psnr_of_auto })
            }
        };
        Ok(PresetRow {
            task: operator.task(),
            noise: noise.to_string(),
            estimate: estimate_name(self.answer).into(),
            method: settings.method.method(),
            steps: settings.steps,
            passes: settings.passes(self.model)?,
            photos: self.searched.len(),
            psnr: rounded(psnr(&settings, &self.searched)?),
            psnr_of_auto: rounded(psnr(&auto, &self.searched)?),
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
    let model = Model::open_or_shipped(&flags.model)?;
    let device = flags.device.open()?;
    let tuning = Tuning {
        model: &model,
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
            let row = tuning.row(operator, noise, &bar);
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
