//! `dmap restore`: photos or measurements in, restored images out.

use super::comparison::comparison;
use super::inputs::{Input, expand};
use super::result::ImageResult;
use super::{SamplerFlags, interrupted, make_folder, quantity};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::graph::{Dtype, PlanOptions, Shape};
use crate::image::{Picture, write_png};
use crate::metrics::{psnr, ssim};
use crate::model::Model;
use crate::operator::{Operator, parse_task};
use crate::sampler::{Item, Measurement, Measurer, Noise, Restoration, Restorer, Settings, Zeta};
use crate::weights::{Checkpoint, write_safetensors};
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
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
    /// Weight file of the prior; `photo` is the one inside the program
    #[arg(long, default_value = "photo")]
    model: String,
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
    /// Memory for weights and activations, such as 4GiB; activations are recomputed to fit
    #[arg(long)]
    memory: Option<String>,
    /// auto or cpu
    #[arg(long, default_value = "auto")]
    device: String,
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

/// An image on its way through the sampler.
struct Pending {
    input: Input,
    truth: Option<Picture>,
    clean_to_noisy: Option<f64>,
    image: Shape,
    measurement: Measurement,
    y: Picture,
    done: Vec<Restoration>,
    seconds: f64,
}

pub(super) fn run(flags: Restore) -> anyhow::Result<ExitCode> {
    let inputs = expand(&flags.inputs)?;
    let noise = parse_noise(&flags.noise)?;
    if flags.save_every == Some(0) {
        return Err(Error::Invalid("--save-every 0: choose at least 1".into()).into());
    }
    let job = Job {
        operator: parse_task(&flags.task)?,
        settings: flags.sampler.settings()?,
        device: Device::open(&flags.device)?,
        plan: PlanOptions { storage: Dtype::F32, memory: flags.memory.as_deref().map(quantity::bytes).transpose()? },
        size: flags.size.as_deref().map(quantity::size).transpose()?,
        model: Model::open_or_shipped(&flags.model)?,
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
    make_folder(&job.out)?;
    restore_all(&job, &inputs)
}

/// `0.025`, or `poisson:0.5`.
fn parse_noise(text: &str) -> Result<Noise> {
    let (value, poisson) = text.strip_prefix("poisson:").map_or((text, false), |rate| (rate, true));
    match value.parse::<f64>() {
        Ok(rate) if poisson && rate > 0.0 && rate.is_finite() => Ok(Noise::Poisson(rate)),
        Ok(sigma) if !poisson && (0.0..=10.0).contains(&sigma) => Ok(Noise::Gaussian(sigma)),
        _ => Err(Error::Invalid(format!(
            "--noise {text}: write a deviation in [0,1] units such as 0.025, or poisson:RATE"
        ))),
    }
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
        if let Err(e) = queue.push(pending) {
            if matches!(e, Error::Cancelled) {
                return Ok(ExitCode::from(130));
            }
            let names: Vec<_> = queue.waiting.iter().map(|p| p.input.path.display().to_string()).collect();
            eprintln!("dmap: {}: {e}", names.join(", "));
            if matches!(e, Error::Budget { .. } | Error::Device(_)) {
                return Err(e.into());
            }
            failed += queue.waiting.len().max(1);
            queue.waiting.clear();
        }
        finished += (before + 1).saturating_sub(queue.waiting.len());
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

/// Reads one input and measures it.
fn prepare(job: &Job, input: &Input) -> Result<Pending> {
    let operator = job.operator.as_ref();
    if job.measurement {
        let (measurement, y) = read_measurement(job, &input.path)?;
        let image = operator.image_shape(Shape::new(1, y.height, y.width, 3));
        return Ok(Pending {
            input: input.clone(),
            truth: None,
            clean_to_noisy: None,
            image,
            measurement,
            y,
            done: Vec::new(),
            seconds: 0.0,
        });
    }
    let (mut truth, note) = Picture::read(&input.path)?;
    if let Some(note) = note.filter(|_| !job.json) {
        println!("{}: converted ({note})", input.path.display());
    }
    if let Some((w, h)) = job.size {
        truth = truth.centre_crop(w, h);
    }
    let image = Shape::new(1, truth.height, truth.width, 3);
    let mut measurer = Measurer::new(operator, image)?;
    let state = operator.draw_state(image, job.seed)?;
    let mut values = measurer.apply(&truth.values, &state)?;
    let clean = values.clone();
    job.noise.apply(&mut values, job.seed, |i| is_measured(operator, image, &state, i));
    let norm = values.iter().zip(&clean).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let shape = measurer.measurement_shape();
    Ok(Pending {
        input: input.clone(),
        truth: Some(truth),
        clean_to_noisy: Some(norm),
        image,
        y: Picture { width: shape.w, height: shape.h, values: values.clone() },
        measurement: measurement(job, image, values, state),
        done: Vec::new(),
        seconds: 0.0,
    })
}

/// True unless value `i` of a masked image is missing.
fn is_measured(operator: &dyn Operator, image: Shape, state: &[f32], i: usize) -> bool {
    let masked = operator.state_shape(image).is_some_and(|s| s.numel() == image.h * image.w);
    !masked || state[i / 3] != 0.0
}

fn measurement(job: &Job, image: Shape, y: Vec<f32>, state: Vec<f32>) -> Measurement {
    let noise_norm = job.noise.expected_norm(&y, |i| is_measured(job.operator.as_ref(), image, &state, i));
    Measurement { y, state, noise_norm }
}

/// A measurement picture, or a file with `y` (1, h, w, 3) and the operator's `state`.
fn read_measurement(job: &Job, path: &Path) -> Result<(Measurement, Picture)> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        let file = Checkpoint::open(path)?;
        let shape = file.tensors.get("y").map(|t| t.shape.clone()).unwrap_or_default();
        let [1, height, width, 3] = shape[..] else {
            return Err(file.error(format!("tensor y should have shape (1, height, width, 3) but has {shape:?}")));
        };
        let y = file.values("y")?;
        let image = job.operator.image_shape(Shape::new(1, height, width, 3));
        let state = match job.operator.state_shape(image) {
            None => Vec::new(),
            Some(expected) => {
                let state = file.values("state")?;
                if state.len() != expected.numel() {
                    let reason = format!(
                        "tensor state has {} values, task {} needs {expected}",
                        state.len(),
                        job.operator.task()
                    );
                    return Err(file.error(reason));
                }
                state
            }
        };
        let picture = Picture { width, height, values: y.clone() };
        return Ok((measurement(job, image, y, state), picture));
    }
    let y = Picture::read(path)?.0;
    let image = job.operator.image_shape(Shape::new(1, y.height, y.width, 3));
    job.operator.check(image)?;
    let state = job.operator.draw_state(image, job.seed)?;
    let mut values = y.values.clone();
    if job.operator.state_shape(image).is_some_and(|s| s.numel() == image.h * image.w) {
        // Whatever the picture shows at missing pixels is not a measurement.
        values.chunks_mut(3).zip(&state).filter(|(_, m)| **m == 0.0).for_each(|(v, _)| v.fill(0.0));
    }
    Ok((measurement(job, image, values, state), y))
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
            let canvas = restorer.canvas();
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
            write_results(job, &pending, memory, restorer.canvas())?;
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
    let canvas = restorer.canvas();
    let result = restorer.restore(items, |now| {
        bar.set_position(now.step as u64);
        let mean = now.residual.iter().sum::<f32>() / now.residual.len() as f32;
        if mean.is_finite() {
            bar.set_message(format!("{mean:.2}"));
        }
        if job.save_every.is_some_and(|k| now.step % k == 0) {
            for (&(i, sample), x) in part.iter().zip(now.x.chunks(canvas.item())) {
                let folder = job.out.join(&waiting[i].input.name);
                let picture = Picture { width: canvas.w, height: canvas.h, values: x.to_vec() };
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

fn suffix(job: &Job, sample: u32) -> String {
    if job.samples == 1 { String::new() } else { format!("-{}", sample + 1) }
}

/// Writes the pictures of one image, and last its result.json.
fn write_results(job: &Job, p: &Pending, (arena_bytes, weight_bytes): (u64, u64), canvas: Shape) -> Result<()> {
    let folder = job.out.join(&p.input.name);
    make_folder(&folder)?;
    let image = p.image;
    let state = &p.measurement.state;
    p.y.write_png(&folder.join("measurement.png"))?;
    let mut tensors = vec![("y", vec![1, p.y.height, p.y.width, 3], &p.measurement.y[..])];
    if let Some(s) = job.operator.state_shape(image) {
        tensors.push(("state", vec![1, s.h, s.w, s.c], &state[..]));
    }
    write_safetensors(&folder.join("measurement.safetensors"), &tensors)?;
    let mut mean = Picture { width: image.w, height: image.h, values: vec![0.0; image.item()] };
    for (k, sample) in p.done.iter().enumerate() {
        if job.samples > 1 {
            sample.picture.write_png(&folder.join(format!("restored{}.png", suffix(job, k as u32))))?;
        }
        let share = 1.0 / p.done.len() as f32;
        mean.values.iter_mut().zip(&sample.picture.values).for_each(|(m, v)| *m += share * v);
    }
    let name = if job.samples > 1 { "restored-mean.png" } else { "restored.png" };
    mean.write_png(&folder.join(name))?;

    let (baseline, naive) = job.operator.baseline(&p.y, state, image);
    let against = |picture: &Picture| p.truth.as_ref().map(|t| psnr(picture, t)).filter(|v| v.is_finite());
    let (zeta, zeta_unit) = match job.settings.zeta {
        Zeta::Relative(z) => (z, "relative"),
        Zeta::Absolute(z) => (z, "absolute"),
    };
    let result = ImageResult {
        input: p.input.path.display().to_string(),
        task: job.operator.task(),
        method: job.settings.method.row().name.into(),
        model: job.model.name.clone(),
        seed: job.seed,
        steps: job.settings.steps,
        zeta,
        zeta_unit,
        inner: job.settings.inner,
        size: [image.w, image.h],
        canvas: [canvas.w, canvas.h],
        samples: job.samples,
        noise: match job.noise {
            Noise::Gaussian(sigma) => sigma.to_string(),
            Noise::Poisson(rate) => format!("poisson:{rate}"),
        },
        psnr: against(&mean),
        psnr_samples: p.truth.as_ref().map(|t| p.done.iter().map(|s| psnr(&s.picture, t)).collect()),
        baseline,
        psnr_baseline: against(&naive),
        ssim: p.truth.as_ref().map(|t| ssim(&mean, t)),
        residual: p.done.iter().map(|s| s.residual).sum::<f64>() / p.done.len() as f64,
        noise_norm: p.clean_to_noisy,
        residuals: p.done[0].residuals.clone(),
        seconds: p.seconds,
        seconds_per_step: p.seconds / (job.settings.steps * p.done.len()) as f64,
        arena_bytes,
        weight_bytes,
        device: job.device.name(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let decibel = |v: Option<f64>| v.map_or(String::new(), |v| format!(" {v:.2} dB"));
    let mut panels: Vec<(String, Picture)> = p.truth.iter().map(|t| ("truth".to_string(), t.clone())).collect();
    panels.push((format!("measurement{}", decibel(result.psnr_baseline)), job.operator.view(&p.y, state, image)));
    panels.push((format!("{}{}", result.method, decibel(result.psnr)), mean));
    let page = comparison(&panels, &result.residuals, p.clean_to_noisy);
    write_png(&folder.join("comparison.png"), &page)?;
    result.write(&folder.join("result.json"))?;
    if job.json {
        println!("{}", serde_json::to_string(&result).map_err(|e| Error::Invalid(e.to_string()))?);
    } else {
        let quality = match (result.psnr, result.psnr_baseline) {
            (Some(psnr), Some(naive)) => format!("{psnr:.2} dB ({baseline} {naive:.2} dB), "),
            _ => String::new(),
        };
        println!(
            "{}: {quality}residual {:.2}, {:.1} s -> {}",
            p.input.path.display(),
            result.residual,
            p.seconds,
            folder.display()
        );
    }
    Ok(())
}
