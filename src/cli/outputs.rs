//! What is written for a restored image.

use super::comparison::comparison;
use super::make_folder;
use super::prepare::Pending;
use super::restore::Job;
use super::result::ImageResult;
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::image::{Picture, write_png};
use crate::metrics::{psnr, ssim};
use crate::sampler::{Noise, Zeta};
use crate::weights::write_safetensors;

/// What tells the files of several samples apart.
pub(super) fn suffix(job: &Job, sample: u32) -> String {
    if job.samples == 1 { String::new() } else { format!("-{}", sample + 1) }
}

/// Writes the pictures of one image, and last its result.json.
pub(super) fn write_results(
    job: &Job,
    p: &Pending,
    (arena_bytes, weight_bytes): (u64, u64),
    canvas: Shape,
) -> Result<()> {
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
        whiten: job.settings.whitening(job.operator.as_ref()),
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
