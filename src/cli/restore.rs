//! `dmap restore`: photos or measurements in, restored images out.

use super::device::DeviceFlags;
use super::inputs::{Input, expand};
use super::outputs::{suffix, write_results};
use super::prepare::{Pending, parse_noise, prepare};
use super::{SamplerFlags, interrupted, make_folder, quantity};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::graph::{PlanOptions, Shape};
use crate::model::Model;
use crate::operator::{Operator, parse_task};
use crate::sampler::{Item, Noise, Restoration, Restorer, Settings};
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Flags of `dmap restore`.
#[derive(clap::Args, Debug)]
pub struct Restore {
    /// Photos, folders or patterns; with --measurement the measurements themselves
    #[arg(required = true)]
    inputs: Vec<String>,
    /// What degrades the images: sr4, gaussian-blur, inpaint-random:missing=0.5 ... (`dmap tasks` lists all)
    #[arg(long)]
    task: String,
    #[command(flatten)]
    sampler: SamplerFlags,
    /// Weight file of the prior, or folder of a latent model in diffusers layout; `photo` and `tiny-latent` are inside the program
    #[arg(long, default_value = "photo")]
    model: String,
    /// Text that a latent model is conditioned on [default: the cached one of its folder, else the empty text]
    #[arg(long)]
    prompt: Option<String>,
    /// Folder for the results, one folder per image
    #[arg(long)]
    out: PathBuf,
    /// Noise of the measurement, added to photos: a deviation in [0,1] units, or poisson:RATE (255 RATE photons at white)
    #[arg(long, default_value = "0.025")]
    noise: String,
    /// Seed of mask, kernel, measurement noise and sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples per measurement; their mean is written too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// Images restored at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Take the centre of each photo: S or WxH pixels
    #[arg(long)]
    size: Option<String>,
    /// Class of a class-conditional model
    #[arg(long)]
    label: Option<u32>,
    #[command(flatten)]
    device: DeviceFlags,
    /// The inputs are measurements: pictures, or measurement.safetensors of an earlier run
    #[arg(long)]
    measurement: bool,
    /// Write the state of the chain every K steps
    #[arg(long)]
    save_every: Option<usize>,
    /// Restore images again that are finished already
    #[arg(long)]
    overwrite: bool,
    /// Print each result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Flags, checked and ready.
pub(super) struct Job {
    pub model: Model,
    pub operator: Arc<dyn Operator>,
    pub settings: Settings,
    pub device: Device,
    pub plan: PlanOptions,
    pub out: PathBuf,
    /// Added to what photos are measured as; what given measurements are said to hold.
    pub noise: Noise,
    pub seed: u64,
    pub samples: u32,
    pub batch: usize,
    pub size: Option<(usize, usize)>,
    pub label: Option<u32>,
    pub measurement: bool,
    pub save_every: Option<usize>,
    pub overwrite: bool,
    pub json: bool,
}

pub(super) fn run(flags: Restore) -> anyhow::Result<ExitCode> {
    let inputs = expand(&flags.inputs)?;
    let noise = parse_noise(&flags.noise)?;
    if flags.save_every == Some(0) {
        return Err(Error::Invalid("--save-every 0: choose at least 1".into()).into());
    }
    let model = Model::open_with_prompt(&flags.model, flags.prompt.as_deref())?;
    let job = Job {
        operator: parse_task(&flags.task)?,
        settings: flags.sampler.settings(&model.network.prior())?,
        device: flags.device.open()?,
        plan: flags.device.plan()?,
        size: flags.size.as_deref().map(quantity::size).transpose()?,
        model,
        out: flags.out,
        noise,
        seed: flags.seed,
        samples: flags.samples,
        batch: flags.batch as usize,
        label: flags.label,
        measurement: flags.measurement,
        save_every: flags.save_every,
        overwrite: flags.overwrite,
        json: flags.json,
    };
    job.settings.check_model(&job.model.network.prior())?;
    make_folder(&job.out)?;
    if let Some(warning) = &job.model.warning {
        eprintln!("dmap: {warning}");
    }
    if !job.json {
        println!("on {}", job.device.name());
    }
    restore_all(&job, &inputs)
}

/// Restores every input; a bad one is reported and does not stop the others. The exit code is 2 if any was bad.
pub(super) fn restore_all(job: &Job, inputs: &[Input]) -> anyhow::Result<ExitCode> {
    let mut queue = Queue { job, waiting: Vec::new(), ready: None };
    let (mut finished, mut bad, mut failed) = (0, 0, 0);
    for input in inputs {
        let folder = job.out.join(&input.name);
        if !job.overwrite && folder.join("result.json").exists() {
            if !job.json {
                println!("{}: finished before, skipped (--overwrite restores it again)", input.path.display());
            }
            continue;
        }
        let pending = match prepare(job, input) {
            Ok(pending) => pending,
            Err(e) => {
                eprintln!("dmap: {e}");
                bad += 1;
                continue;
            }
        };
        let before = queue.waiting.len();
        let pushed = queue.push(pending);
        if pushed.is_ok() {
            finished += (before + 1).saturating_sub(queue.waiting.len());
        }
        if let Err(e) = pushed {
            if matches!(e, Error::Cancelled) {
                return Ok(ExitCode::from(130));
            }
            let names: Vec<_> = queue.waiting.iter().map(|p| p.input.path.display().to_string()).collect();
            let names = names.join(", ");
            if matches!(e, Error::Budget { .. } | Error::Device(_)) {
                return Err(anyhow::Error::from(e).context(names));
            }
            eprintln!("dmap: {names}: {e}");
            failed += queue.waiting.len().max(1);
            queue.waiting.clear();
        }
    }
    let left = queue.waiting.len();
    match queue.flush() {
        Ok(()) => finished += left,
        Err(Error::Cancelled) => return Ok(ExitCode::from(130)),
        Err(e) => {
            eprintln!("dmap: {e}");
            failed += left;
        }
    }
    if bad + failed > 0 {
        eprintln!("dmap: {} of {} inputs could not be restored, {finished} were", bad + failed, inputs.len());
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

/// Collects samples of images of one size until a batch is full.
struct Queue<'a> {
    job: &'a Job,
    waiting: Vec<Pending>,
    ready: Option<(Shape, Restorer)>,
}

impl Queue<'_> {
    fn push(&mut self, pending: Pending) -> Result<()> {
        if self.waiting.first().is_some_and(|w| w.image != pending.image) {
            self.flush()?;
        }
        self.waiting.push(pending);
        if self.waiting.len() * self.job.samples as usize >= self.job.batch {
            self.flush()?;
        }
        Ok(())
    }

    /// Restores everything that waits and writes it.
    fn flush(&mut self) -> Result<()> {
        let job = self.job;
        let Some(image) = self.waiting.first().map(|p| p.image) else { return Ok(()) };
        let units: Vec<(usize, u32)> =
            (0..self.waiting.len()).flat_map(|i| (0..job.samples).map(move |s| (i, s))).collect();
        let batch = Shape { n: job.batch.min(units.len()), ..image };
        if self.ready.as_ref().is_none_or(|(shape, _)| *shape != batch) {
            self.ready = None;
            let restorer = Restorer::new(&job.model, &job.operator, &job.settings, batch, job.plan, &job.device)?;
            let canvas = restorer.picture_canvas();
            if (canvas.h, canvas.w) != (image.h, image.w) && !job.json {
                println!(
                    "{}x{} pixels are restored on a canvas of {}x{}, which the model takes, and cropped back",
                    image.w, image.h, canvas.w, canvas.h
                );
            }
            self.ready = Some((batch, restorer));
        }
        let Some((_, restorer)) = &mut self.ready else { unreachable!("made above") };
        for part in units.chunks(batch.n) {
            let items: Vec<Item> = (part.iter())
                .map(|&(i, sample)| Item {
                    measurement: self.waiting[i].measurement.clone(),
                    seed: job.seed,
                    sample,
                    label: job.label,
                })
                .collect();
            let start = Instant::now();
            let restored = sample_batch(job, restorer, &items, part, &self.waiting)?;
            let seconds = start.elapsed().as_secs_f64() / part.len() as f64;
            for (&(i, _), restoration) in part.iter().zip(restored) {
                self.waiting[i].done.push(restoration);
                self.waiting[i].seconds += seconds;
            }
        }
        let memory = restorer.memory();
        for pending in std::mem::take(&mut self.waiting) {
            write_results(job, &pending, memory, restorer.picture_canvas())?;
        }
        Ok(())
    }
}

fn sample_batch(
    job: &Job,
    restorer: &mut Restorer,
    items: &[Item],
    part: &[(usize, u32)],
    waiting: &[Pending],
) -> Result<Vec<Restoration>> {
    let bar = if job.json { ProgressBar::hidden() } else { ProgressBar::new(job.settings.steps as u64) };
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] step {pos}/{len}, residual {msg}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(waiting[part[0].0].input.name.clone());
    bar.set_message("-");
    let result = restorer.restore(items, |now| {
        bar.set_position(now.step as u64);
        let mean = now.residual.iter().sum::<f32>() / now.residual.len() as f32;
        if mean.is_finite() {
            bar.set_message(format!("{mean:.2}"));
        }
        if job.save_every.is_some_and(|k| now.step % k == 0) {
            let pictures = now.pictures().unwrap_or_else(|e| {
                eprintln!("dmap: {e}");
                Vec::new()
            });
            for (&(i, sample), picture) in part.iter().zip(pictures) {
                let folder = job.out.join(&waiting[i].input.name);
                let name = format!("step-{:04}{}.png", now.step, suffix(job, sample));
                let saved = make_folder(&folder).and_then(|()| picture.write_png(&folder.join(name)));
                if let Err(e) = saved {
                    eprintln!("dmap: {e}");
                }
            }
        }
        if interrupted().load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    result
}
