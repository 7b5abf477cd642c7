//! `dmap restore`: photos or measurements in, restored images out.

use super::cse_flags::CseFlags;
use super::device::DeviceFlags;
use super::inputs::{Input, expand};
use super::job::Job;
use super::prior_flags::{PriorFlags, warn};
use super::queue::restore_all;
use super::recipe::sha256;
use super::reported::check_report;
use super::sampler_flags::SamplerFlags;
use super::seconds::passes_in;
use super::{interrupted, make_folder, quantity};
use crate::error::{Error, Result};
use crate::image::{MOST_PIXELS, ReadOptions};
use crate::metrics::Lpips;
use crate::operator::{Operator, parse_task};
use crate::sampler::{MeasurementFile, Noise};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  dmap restore photos/ --task sr4 --out sr4
  dmap restore y.png --measurement --task motion-blur:kernel=psf.png --noise 0.01 --out sharp
  dmap restore a.png --task inpaint-random --method dmap:k=5 --samples 8 --out samples";

/// Flags of `dmap restore`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Restore {
    /// Photos, folders or patterns; with --measurement the measurements themselves
    #[arg(required = true, help_heading = "Problem")]
    inputs: Vec<PathBuf>,
    /// What degrades the images: sr4, gaussian-blur, inpaint-random:missing=0.5 ... (`dmap tasks`
    /// lists all)
    #[arg(long, help_heading = "Problem")]
    task: String,
    /// Noise of the measurement, added to photos: a standard deviation in [0,1] units, or
    /// poisson:RATE (255 RATE photons at white) [default: 0.025, or what a measurement file says]
    #[arg(long, value_name = "SIGMA|poisson:RATE", help_heading = "Problem")]
    noise: Option<String>,
    /// The inputs are measurements: pictures, or measurement.safetensors of an earlier run, or such
    /// a file of your own with y (1,H,W,1 or 3) in [-1,1] and, for a mask or kernel, state (1,h,w,1). x
    /// is correlated with a kernel in state
    #[arg(long, help_heading = "Problem")]
    measurement: bool,
    /// Take the centre of each photo: S or WxH pixels
    #[arg(long, value_name = "S|WxH", help_heading = "Problem")]
    size: Option<String>,
    /// Refuse pictures with more pixels than this
    #[arg(long, default_value_t = MOST_PIXELS, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Problem")]
    max_pixels: u64,
    /// Accept JPEGs whose end is missing
    #[arg(long, help_heading = "Problem")]
    allow_truncated: bool,
    #[command(flatten)]
    sampler: SamplerFlags,
    /// Samples per measurement; their mean and standard deviation are written too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Sampling")]
    samples: u32,
    /// Runs per sample with other starts; the one with the smallest residual is kept [default: 1,
    /// for phase-retrieval 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Sampling")]
    restarts: Option<u32>,
    /// As many noise levels as these seconds per sample allow, measured on the first input
    #[arg(long, value_name = "S", conflicts_with_all = ["passes", "steps", "preset"], help_heading = "Sampling")]
    seconds: Option<f64>,
    /// Seed of mask, kernel, measurement noise and sampler
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    #[command(flatten)]
    prior: PriorFlags,
    #[command(flatten)]
    cse: CseFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Images restored at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Device and memory")]
    batch: u32,
    /// Folder for the results, one folder per image
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Write the state of the chain every K steps
    #[arg(long, value_name = "K", help_heading = "Output")]
    save_every: Option<usize>,
    /// Restore images again that are finished already
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Write a page about the run: pictures to compare, curves over the steps, memory and times.
    /// It stands by itself and needs no network
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    report: Option<PathBuf>,
    /// Report LPIPS too, with these weights: features of AlexNet or VGG16 as torchvision saves them
    /// and LPIPS's lin weights, in one file or in two (give the flag twice)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    lpips: Vec<PathBuf>,
    /// Print each result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// SHA-256 of the files that a task reads, such as that of its mask or kernel, with spaces between
/// them. None if it reads none.
pub(super) fn task_file_sha256(operator: &dyn Operator) -> Result<Option<String>> {
    let hashes: Vec<String> = operator.files().iter().map(|path| sha256(path)).collect::<Result<_>>()?;
    Ok((!hashes.is_empty()).then(|| hashes.join(" ")))
}

/// The noise that settings are chosen for: the flag's, else that of the first input if it is a
/// measurement that says so, else 0.025.
fn noise_of(flags: &Restore, typed: Option<Noise>, inputs: &[Input]) -> Noise {
    let recorded = || {
        let path = inputs.first().map(|input| &input.path).filter(|_| flags.measurement)?;
        let is_file = path.extension().is_some_and(|e| e == "safetensors");
        // A file that can't be read is reported at its turn.
        is_file.then(|| MeasurementFile::read(path).ok()).flatten().and_then(|file| file.noise)
    };
    typed.or_else(recorded).unwrap_or_default()
}

pub(super) fn run(flags: Restore) -> anyhow::Result<ExitCode> {
    // From here on Ctrl-C ends the run after a step, the first one included.
    interrupted();
    let inputs = expand(&flags.inputs)?;
    let noise = flags.noise.as_deref().map(str::parse::<Noise>).transpose();
    // The message starts with "noise", so two dashes make it the name of the flag.
    let noise = noise.map_err(|e| Error::Invalid(format!("--{e}")))?;
    if flags.save_every == Some(0) {
        return Err(Error::Invalid("--save-every 0: choose at least 1".into()).into());
    }
    if flags.measurement && flags.size.is_some() {
        let reason = "--size crops photos; a measurement is restored whole: leave --size or --measurement out";
        return Err(Error::Invalid(reason.into()).into());
    }
    if flags.measurement && !flags.lpips.is_empty() {
        let reason = "--lpips compares with the truth, which a measurement does not have: leave one of the two out";
        return Err(Error::Invalid(reason.into()).into());
    }
    let lpips = if flags.lpips.is_empty() { None } else { Some(Lpips::open(&flags.lpips)?) };
    let operator = parse_task(&flags.task)?;
    let model = flags.cse.on(flags.prior.open()?, operator.as_ref())?;
    let usual_noise = noise_of(&flags, noise, &inputs);
    let mut job = Job {
        task_file_sha256: task_file_sha256(operator.as_ref())?,
        settings: flags.sampler.settings(&model, operator.as_ref(), usual_noise, flags.samples)?,
        restarts: flags.restarts.unwrap_or(operator.restarts()),
        operator,
        device: flags.device.open()?,
        plan: flags.device.plan()?,
        read: ReadOptions {
            most_pixels: flags.max_pixels,
            crop: flags.size.as_deref().map(quantity::size).transpose()?,
            allow_truncated: flags.allow_truncated,
        },
        label: flags.prior.checked_label(&model.network.prior())?,
        model_sha256: model.sha256()?,
        model,
        out: flags.out,
        noise,
        seed: flags.seed,
        samples: flags.samples,
        batch: flags.batch as usize,
        measurement: flags.measurement,
        save_every: flags.save_every,
        overwrite: flags.overwrite,
        report: flags.report,
        lpips,
        json: flags.json,
        prompt: flags.prior.prompt,
        precision: flags.device.precision(),
    };
    if let Some(seconds) = flags.seconds {
        // The seconds of a sample are those of all its restarts.
        let passes = passes_in(seconds / f64::from(job.restarts), &job, &inputs)?;
        let sampler = flags.sampler.within(passes);
        job.settings = sampler.settings(&job.model, job.operator.as_ref(), usual_noise, flags.samples)?;
    }
    job.settings.traced = job.report.is_some();
    if let Some(report) = &job.report {
        check_report(report, &job.out)?;
    }
    let is_new = !job.out.exists();
    make_folder(&job.out)?;
    warn(&job.model);
    if !job.json {
        say!("on {}", job.device.name_and_reason())?;
    }
    let result = restore_all(&job, &inputs);
    if is_new {
        // Removes the folder if it is empty.
        let _ = std::fs::remove_dir(&job.out);
    }
    Ok(result?)
}
