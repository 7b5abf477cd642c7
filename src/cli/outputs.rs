//! The files that are written for a restored image.

use super::job::Job;
use super::make_folder;
use super::pending::Pending;
use crate::error::{Error, Result, shown};
use crate::image::{Picture, write_png};
use crate::metrics::{LpipsRange, psnr, ssim};
use crate::operator::baseline;
use crate::report::{ImageResult, comparison, view};
use crate::sampler::{Answer, Restoration, method};
use crate::tensor::Shape;
use crate::weights::write_safetensors_with;

/// Ratio of the residual norm to the norm of the noise above which a result is called doubtful. If
/// operator and noise are right, samples end at 0.98 to 1.2 and at most at 1.6 (dsg with denoise;
/// 1.5 for a large missing box). A best image (`map`) ends at 0.4 to 1.1. For comparison, a photo
/// with every second pixel kept, given as sr2 with noise 0.01, ends at 1.96.
fn doubtful(answer: Answer) -> f64 {
    match answer {
        Answer::Map => 1.3,
        Answer::Sample => 1.75,
    }
}

/// Suffix of the file names of one of `count` runs; empty if there is only one.
pub(super) fn suffix(count: u32, run: u32) -> String {
    if count == 1 { String::new() } else { format!("-{}", run + 1) }
}

/// A restored image as it was written.
pub(super) struct Finished {
    pub result: ImageResult,
    /// The restored image, or the mean of several samples.
    pub restored: Picture,
    /// The measurement as people look at it.
    pub seen: Picture,
    /// The standard deviation of several samples, as a picture.
    pub deviation: Option<Picture>,
}

/// Writes the pictures of one image, then its result.json.
pub(super) fn write_results(
    job: &Job,
    p: &Pending,
    (arena_bytes, weight_bytes): (u64, u64),
    canvas: Shape,
) -> Result<Finished> {
    let folder = job.out.join(&p.input.name);
    make_folder(&folder)?;
    let finished = folder.join("result.json");
    if finished.exists() {
        // An old result.json would mark the pictures of this run as complete, even if the program
        // stops half-way.
        std::fs::remove_file(&finished).map_err(Error::io(&finished))?;
    }
    // Removes pictures of an earlier run, which may have had another number of samples.
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with("restored") && n.ends_with(".png")) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    let write_as = |picture: &Picture, name: &str, grey: bool| match grey {
        true => picture.write_grey_png(&folder.join(name)),
        false => picture.write_png(&folder.join(name)),
    };
    let write = |picture: &Picture, name: &str| write_as(picture, name, p.grey);
    let image = p.image;
    let state = &p.measurement.state;
    // A mosaic of a grey photo, for example, has channels of its own.
    write_as(&p.y, "measurement.png", p.grey && p.y.is_grey())?;
    let y = job.operator.measurement_shape(image);
    let mut tensors = vec![("y", vec![1, y.h, y.w, y.c], &p.measurement.y[..])];
    if let Some(s) = job.operator.state_shape(image) {
        tensors.push(("state", vec![1, s.h, s.w, s.c], &state[..]));
    }
    let noise = p.noise.to_string();
    let made_by = [("task", job.operator.task()), ("noise", noise.clone()), ("grey", p.grey.to_string())];
    write_safetensors_with(&folder.join("measurement.safetensors"), &tensors, &made_by)?;
    let mut mean = Picture { width: image.w, height: image.h, values: vec![0.0; image.item()] };
    for (k, sample) in p.done.iter().enumerate() {
        if job.samples > 1 {
            write(&sample.picture, &format!("restored{}.png", suffix(job.samples, k as u32)))?;
        }
        let share = 1.0 / p.done.len() as f32;
        mean.values.iter_mut().zip(&sample.picture.values).for_each(|(m, v)| *m += share * v);
    }
    let deviation = (job.samples > 1).then(|| standard_deviation(&p.done, &mean));
    if let Some(deviation) = &deviation {
        write(deviation, "restored-standard-deviation.png")?;
    }
    let name = if job.samples > 1 { "restored-mean.png" } else { "restored.png" };
    let mut residual = p.done.iter().map(|s| s.residual).sum::<f64>() / p.done.len() as f64;
    if p.grey {
        mean = mean.grey();
        residual = p.measurement.residual(job.operator.as_ref(), image, &mean)?;
    }
    write(&mean, name)?;

    let (baseline, naive) = baseline(job.operator.as_ref(), &p.measurement.y, state, image);
    let naive = if p.grey { naive.grey() } else { naive };
    let against = |picture: &Picture| p.truth.as_ref().map(|t| psnr(picture, t)).filter(|v| v.is_finite());
    let over = (p.measurement.noise_norm > 0.0).then(|| residual / p.measurement.noise_norm);
    let is_guided = !p.done[0].residuals.is_empty();
    let limit = doubtful(job.settings.method.answer());
    let warning = over.filter(|&r| r > limit && is_guided).map(|r| {
        format!(
            "residual {r:.1} times the noise: the operator or the noise is not what you said, or the method did not get there"
        )
    });
    let result = ImageResult {
        input: p.input.path.to_string_lossy().into_owned(),
        model: job.model.name.clone(),
        recipe: p.recipe.clone(),
        size: [image.w, image.h],
        canvas: [canvas.w, canvas.h],
        measurement_noise: noise,
        psnr: against(&mean),
        psnr_samples: p.truth.as_ref().map(|t| p.done.iter().map(|s| psnr(&s.picture, t)).collect()),
        baseline,
        psnr_baseline: against(&naive),
        ssim: p.truth.as_ref().map(|t| ssim(&mean, t)),
        lpips: lpips_of(job, p, &mean),
        lpips_network: job.lpips.as_ref().map(|l| l.name()),
        residual,
        residual_restarts: (p.tried.len() > p.done.len()).then(|| p.tried.clone()),
        form: p.form,
        added_noise_norm: p.added_noise_norm,
        residual_over_noise: over,
        warning,
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
    let seen = view(job.operator.as_ref(), &p.y, state, image);
    panels.push((format!("measurement{}", decibel(result.psnr_baseline)), seen.clone()));
    panels.push((format!("{}{}", method::name(job.settings.method.as_ref()), decibel(result.psnr)), mean.clone()));
    let page = comparison(&panels, &result.residuals, p.added_noise_norm);
    write_png(&folder.join("comparison.png"), &page)?;
    result.write(&finished)?;
    if job.json {
        say!("{}", serde_json::to_string(&result).map_err(|e| Error::Invalid(e.to_string()))?)?;
    } else {
        let quality = match (result.psnr, result.psnr_baseline) {
            (Some(psnr), Some(naive)) => format!("{psnr:.2} dB ({baseline} {naive:.2} dB), "),
            _ => String::new(),
        };
        let lpips = result.lpips.map_or(String::new(), |v| format!("LPIPS {v:.3}, "));
        say!(
            "{}: {quality}{lpips}residual {:.2}, {:.1} s -> {}",
            shown(&p.input.path),
            result.residual,
            p.seconds,
            shown(&folder)
        )?;
        if let Some(warning) = &result.warning {
            say!("{}: {warning}", shown(&p.input.path))?;
        }
    }
    Ok(Finished { result, restored: mean, seen, deviation })
}

/// LPIPS of the restored image, if its weights were given and the truth is known. A picture that is
/// too small for the network has none, and a line says so.
fn lpips_of(job: &Job, p: &Pending, restored: &Picture) -> Option<f64> {
    let (lpips, truth) = (job.lpips.as_ref()?, p.truth.as_ref()?);
    let distance = lpips.distance(restored, truth, LpipsRange::EightBit, 0);
    distance.inspect_err(|e| complain!("dmap: {}: {e}", shown(&p.input.path))).ok()
}

/// Standard deviation of the samples at each value, as a picture: black is 0, white is a quarter of
/// the range from black to white.
fn standard_deviation(samples: &[Restoration], mean: &Picture) -> Picture {
    let square = |i: usize| samples.iter().map(|s| (s.picture.values[i] - mean.values[i]).powi(2)).sum::<f32>();
    // A quarter of the range, 0.5 in [-1, 1] units, is mapped to the whole range.
    let shown = |i: usize| 4.0 * (square(i) / (samples.len() as f32 - 1.0)).sqrt() - 1.0;
    Picture { values: (0..mean.values.len()).map(shown).collect(), ..mean.clone() }.clamped()
}
