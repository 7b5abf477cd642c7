//! `dmap train-cse`: trains a conditional score estimator for a task.

use super::device::DeviceFlags;
use super::inputs::expand;
use super::prior_flags::warn;
use super::{interrupted, make_folder, quantity};
use crate::error::{Error, ErrorKind, Result, shown};
use crate::model::{Model, Prior};
use crate::operator::parse_task;
use crate::sampler::Noise;
use crate::train::{Augmentation, CHECKPOINT, Photos, TrainSettings, Trainer};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
Examples:
  dmap train-cse --task sr4 --photos photos/ --steps 2000 --out sr4-cse
  dmap train-cse --task sr4 --photos photos/ --steps 4000 --out sr4-cse --resume
  dmap restore a.png --task sr4 --cse sr4-cse --method dmap --out restored";

/// Flags of `dmap train-cse`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TrainCse {
    /// What degrades the images (`dmap tasks` lists all)
    #[arg(long, help_heading = "Problem")]
    task: String,
    /// Noise of the measurements: a standard deviation in [0,1] units, or poisson:RATE
    #[arg(long, value_name = "SIGMA|poisson:RATE", default_value = "0.025", help_heading = "Problem")]
    noise: String,
    /// Photos, folders or patterns
    #[arg(long, required = true, num_args = 1.., help_heading = "Photographs")]
    photos: Vec<PathBuf>,
    /// Number of photos, chosen by the seed
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Photographs")]
    shots: u32,
    /// Size of the training images: S or WxH pixels [default: 128, of latent models what they were
    /// trained with]
    #[arg(long, value_name = "S|WxH", help_heading = "Photographs")]
    size: Option<String>,
    /// Smallest and largest side of the part of a photo that becomes a training image, in sides of
    /// that image
    #[arg(long, value_name = "LOW,HIGH", default_value = "1,2", help_heading = "Photographs")]
    zoom: String,
    /// Change of brightness, contrast, saturation and hue, as a share; 0 for none
    #[arg(long, default_value_t = 0.1, help_heading = "Photographs")]
    colour: f64,
    /// Weight file of the prior, or folder of a latent model in diffusers layout; `photo` and
    /// `tiny-latent` are inside the program
    #[arg(long, default_value = "photo", help_heading = "Training")]
    model: String,
    /// Estimator to start from [default: a copy of the model's encoder half]
    #[arg(long, value_name = "PATH", help_heading = "Training")]
    start: Option<PathBuf>,
    /// Steps of the optimiser in all
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Training")]
    steps: u32,
    /// Images at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Training")]
    batch: u32,
    /// Batches whose gradients are added up for one step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Training")]
    accumulate: u32,
    /// Learning rate of AdamW
    #[arg(long, default_value_t = 1e-5, help_heading = "Training")]
    lr: f64,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    warmup: u32,
    /// Weight decay of AdamW
    #[arg(long, default_value_t = 0.01, help_heading = "Training")]
    decay: f64,
    /// Largest norm of all gradients together
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    clip: f64,
    /// Noise levels count 1 / abar times in the loss, but at most W times: 1 is the published loss,
    /// more teaches the coarse structure, which images get at strong noise
    #[arg(long, value_name = "W", default_value_t = 1.0, help_heading = "Training")]
    weight_limit: f64,
    /// Seed of photos, crops, noise and noise levels
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    seed: u64,
    #[command(flatten)]
    device: DeviceFlags,
    /// Folder for the estimator and the state of the training
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Save every N steps
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Output")]
    save_every: u32,
    /// Write the estimator in f16
    #[arg(long, help_heading = "Output")]
    half: bool,
    /// Continue the training in --out
    #[arg(long, conflicts_with = "overwrite", help_heading = "Output")]
    resume: bool,
    /// Start anew although --out has a training
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Print each step as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The size of training images if none is given.
fn usual_size(model: &Model, prior: &Prior) -> usize {
    match (prior.latent, model.network.unet().and_then(|unet| unet.sample_size)) {
        (None, _) => 128,
        (Some(latent), Some(side)) => side * latent.factor,
        (Some(_), None) => 512,
    }
}

impl TrainCse {
    fn settings(&self, model: &Model) -> Result<TrainSettings> {
        let prior = model.network.prior();
        let side = usual_size(model, &prior).next_multiple_of(prior.size_multiple);
        let size = self.size.as_deref().map(quantity::size).transpose()?.unwrap_or((side, side));
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => Err(Error::Invalid(format!("--{name} {value}: a number above 0 is expected"))),
        };
        let share = |name: &str, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(value),
            false => Err(Error::Invalid(format!("--{name} {value}: 0 or more and below 1 is expected"))),
        };
        let zoom = self.zoom.split_once(',').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
        let Some(zoom) = zoom.filter(|&[low, high]: &[f64; 2]| low > 0.0 && high >= low && high <= 100.0) else {
            let reason = format!("--zoom {}: two numbers such as 1,2 are expected, the smaller one first", self.zoom);
            return Err(Error::Invalid(reason));
        };
        Ok(TrainSettings {
            noise: self.noise.parse::<Noise>().map_err(|e| Error::Invalid(format!("--{e}")))?,
            batch: self.batch as usize,
            accumulate: self.accumulate as usize,
            rate: positive("lr", self.lr)?,
            warmup: self.warmup as usize,
            decay: share("decay", self.decay)?,
            clip: positive("clip", self.clip)?,
            weight_limit: match self.weight_limit {
                limit if limit >= 1.0 && limit.is_finite() => limit,
                limit => return Err(Error::Invalid(format!("--weight-limit {limit}: 1 or more is expected"))),
            },
            seed: self.seed,
            augmentation: Augmentation { zoom, colour: share("colour", self.colour)? },
            start: self.start.clone(),
            half: self.half,
            ..TrainSettings::new(size)
        })
    }

    /// Chooses the photographs and says what is wrong with the others.
    fn choose(&self) -> Result<Photos> {
        let files: Vec<PathBuf> = expand(&self.photos)?.into_iter().map(|input| input.path).collect();
        let photos = Photos::choose(&files, self.shots as usize, self.seed);
        photos.unreadable.iter().for_each(|reason| complain!("dmap: {reason}"));
        match photos.unreadable.len() {
            0 => {}
            1 => complain!("dmap: 1 photo can't be read and is left out"),
            count => complain!("dmap: {count} photos can't be read and are left out"),
        }
        match photos.files.len() {
            0 => Err(Error::Invalid("none of the photos can be read".into())),
            found if found < self.shots as usize => {
                complain!("dmap: there are {found} photos, fewer than {} shots: they are repeated", self.shots);
                Ok(photos)
            }
            _ => Ok(photos),
        }
    }
}

pub(super) fn run(flags: TrainCse) -> anyhow::Result<ExitCode> {
    let operator = parse_task(&flags.task)?;
    let model = Model::open_or_shipped(&flags.model)?;
    let settings = flags.settings(&model)?;
    warn(&model);
    let state = flags.out.join(CHECKPOINT);
    match (flags.resume, flags.overwrite, state.exists()) {
        (true, _, false) => {
            let reason = format!("--resume: {} is not there; leave --resume out to start", shown(&state));
            return Err(Error::Invalid(reason).into());
        }
        (false, false, true) => {
            let reason = format!(
                "{} has a training: continue it with --resume, or replace it with --overwrite",
                shown(&flags.out)
            );
            return Err(Error::Invalid(reason).into());
        }
        _ => {}
    }
    let photos = flags.choose()?;
    let device = flags.device.open()?;
    let mut trainer = Trainer::new(&model, operator.as_ref(), &photos, settings, flags.device.plan()?, &device)?;
    if flags.resume {
        trainer.resume(&flags.out)?;
    }
    make_folder(&flags.out)?;
    let steps = flags.steps as usize;
    if trainer.steps_done() >= steps {
        say!("{} has {} steps already; ask for more with --steps", shown(&flags.out), trainer.steps_done())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !flags.json {
        say!("on {}, {} photos, task {}", device.name_and_reason(), photos.files.len(), operator.task())?;
    }
    let is_stopped = train(&flags, &mut trainer, steps)?;
    if is_stopped {
        complain!("dmap: stopped after {} steps; --resume goes on", trainer.steps_done());
        return Ok(ExitCode::from(ErrorKind::Cancelled.exit_code()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the steps that are left, and saves. True if Ctrl-C stopped them.
fn train(flags: &TrainCse, trainer: &mut Trainer<'_>, steps: usize) -> Result<bool> {
    const SHOWN: &str = "{bar:24} {pos}/{len} steps, {eta} left, {msg}";
    let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(SHOWN).expect("a template"));
    bar.set_position(trainer.steps_done() as u64);
    bar.reset_eta();
    interrupted();
    let mut smooth: Option<f64> = None;
    let save = |trainer: &Trainer<'_>| trainer.save(&flags.out);
    loop {
        let report = trainer.step()?;
        // The loss of one step depends on its noise levels; the mean of the last hundred shows the
        // trend.
        let mean = smooth.map_or(report.loss, |s| s + (report.loss - s) / 100.0);
        smooth = Some(mean);
        bar.set_message(format!("loss {mean:.5}"));
        bar.set_position(report.step as u64);
        if flags.json {
            say!("{}", serde_json::to_string(&report).map_err(|e| Error::Invalid(e.to_string()))?)?;
        }
        let (is_done, is_stopped) = (report.step >= steps, interrupted().load(Ordering::SeqCst));
        if is_done || is_stopped || report.step.is_multiple_of(flags.save_every as usize) {
            let path = save(trainer)?;
            if is_done || is_stopped {
                bar.finish_and_clear();
                if !flags.json {
                    say!("step {}, loss {mean:.5}; use it with --cse {}", report.step, shown(path))?;
                }
                return Ok(is_stopped);
            }
        }
    }
}
