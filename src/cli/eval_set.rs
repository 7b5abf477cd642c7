//! `dmap eval-set`: restores a folder of photos in the setting of a public benchmark and prints
//! PSNR, SSIM and LPIPS.

use super::cse_flags::CseFlags;
use super::device::DeviceFlags;
use super::inputs::{Input, expand};
use super::level_flags::LevelFlags;
use super::mean::Mean;
use super::prior_flags::{PriorFlags, warn};
use super::results_folder::{ResultsFolder, csv_number, csv_text};
use super::{go_on, interrupted};
use crate::error::{Error, ErrorKind, Result, shown};
use crate::image::{Photo, Picture};
use crate::metrics::{Comparison, Lpips, LpipsRange, Values};
use crate::operator::parse_task;
use crate::sampler::Noise;
use crate::trial::{Score, Trial};
use clap::ValueEnum;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  dmap eval-set DIV2K_valid_HR/ --preset deepinv-deblur --model 256x256_diffusion_uncond.pt --out deblur
  dmap eval-set photos/ --preset deepinv-inpaint --method ddrm --lpips alexnet.pth --lpips alex.pth --out inpaint";

/// A setting of a public benchmark.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum PresetFlag {
    /// div2k_gaussian_deblurring: Gaussian blur with sigma 2, noise 0.05, 16 pixels left out
    DeepinvDeblur,
    /// div2k_inpainting_easy: 30 % of the pixels are kept, no noise
    DeepinvInpaint,
    /// div2k_super_resolution_2x: bicubic down-sampling by 2, no noise
    DeepinvSr2,
}

/// The setting of a preset.
#[derive(Serialize, Clone, Copy, Debug)]
struct PresetRow {
    /// Its name on the public leaderboard.
    benchmark: &'static str,
    task: &'static str,
    noise: f64,
    /// Pixels that the metrics leave out at each side.
    border: usize,
    /// Side in pixels to which the photos are resized; the ratio of their sides is not kept.
    side: usize,
}

impl PresetFlag {
    fn row(self) -> PresetRow {
        let row = |benchmark, task, noise, border| PresetRow { benchmark, task, noise, border, side: 256 };
        match self {
            PresetFlag::DeepinvDeblur => {
                row("div2k_gaussian_deblurring", "gaussian-blur:size=15,sigma=2,boundary=valid", 0.05, 16)
            }
            PresetFlag::DeepinvInpaint => row("div2k_inpainting_easy", "inpaint-random:missing=0.7", 0.0, 0),
            PresetFlag::DeepinvSr2 => row("div2k_super_resolution_2x", "sr-bicubic:factor=2,like=deepinv", 0.0, 0),
        }
    }
}

/// Flags of `dmap eval-set`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EvalSet {
    /// Photos, folders or patterns
    #[arg(required = true)]
    photos: Vec<PathBuf>,
    /// The benchmark
    #[arg(long, value_enum)]
    preset: PresetFlag,
    /// Method with its options as for `dmap restore`
    #[arg(long, default_value = "auto")]
    method: String,
    #[command(flatten)]
    levels: LevelFlags,
    /// Only the first N photos, in order of name
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed of mask, measurement noise and sampler, the same for every photo
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    prior: PriorFlags,
    #[command(flatten)]
    cse: CseFlags,
    /// Report LPIPS too, with these weights, as for `dmap restore`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    lpips: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceFlags,
    /// Folder for results.json, results.csv and the restored images
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Replace the results of an earlier run in this folder
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
}

/// The figures of one photo.
#[derive(Serialize, Clone, Debug)]
struct PhotoRow {
    photo: String,
    psnr: f64,
    ssim: f64,
    lpips: Option<f64>,
    /// PSNR of the naive restoration, of all pixels in 8 bits.
    psnr_baseline: f64,
    residual_over_noise: Option<f64>,
    seconds: f64,
}

/// `results.json`.
#[derive(Serialize, Debug)]
struct Results {
    #[serde(flatten)]
    preset: PresetRow,
    model: String,
    model_sha256: String,
    prompt: Option<String>,
    label: Option<u32>,
    cse: Option<String>,
    method: String,
    steps: usize,
    seed: u64,
    device: String,
    version: &'static str,
    lpips_network: Option<&'static str>,
    photos_asked: usize,
    psnr: Option<Mean>,
    ssim: Option<Mean>,
    lpips: Option<Mean>,
    seconds: Option<Mean>,
    photos: Vec<PhotoRow>,
}

pub(super) fn run(flags: EvalSet) -> anyhow::Result<ExitCode> {
    let preset = flags.preset.row();
    let mut inputs = expand(&flags.photos)?;
    inputs.truncate(flags.limit.map_or(usize::MAX, |n| n as usize));
    let lpips = if flags.lpips.is_empty() { None } else { Some(Lpips::open(&flags.lpips)?) };
    let operator = parse_task(preset.task)?;
    let noise = Noise::Gaussian(preset.noise);
    let model = flags.cse.on(flags.prior.open()?, operator.as_ref())?;
    let label = flags.prior.checked_label(&model.network.prior())?;
    let settings = flags.levels.settings(&flags.method, &model, operator.as_ref(), noise)?;
    let (device, plan) = (flags.device.open()?, flags.device.plan()?);
    let (truths, bad) = read_all(&mut inputs, preset.side)?;
    let folder = ResultsFolder::open(&flags.out, flags.overwrite)?;
    warn(&model);
    say!("{} by {} on {}", preset.benchmark, settings.method.method(), device.name_and_reason())?;
    interrupted();
    let seed = flags.seed;
    let trial = Trial {
        model: &model,
        label,
        operator: &operator,
        settings,
        noise,
        seed,
        samples: 1,
        restarts: 1,
        plan,
        device: &device,
    };
    let mut rows = Vec::new();
    let ended = trial.run_each(&truths, go_on, |k, score| {
        let row = row_of(&inputs[k].name, score, &truths[k], preset, lpips.as_ref())?;
        score.picture.write_png(&flags.out.join(format!("{}.png", inputs[k].name)))?;
        let lpips = row.lpips.map_or(String::new(), |v| format!(", LPIPS {v:.4}"));
        say!("{:30} {:.2} dB, SSIM {:.4}{lpips}, {:.1} s", row.photo, row.psnr, row.ssim, row.seconds)?;
        rows.push(row);
        Ok(())
    });
    let ended = match ended {
        Err(Error::Cancelled) if rows.is_empty() => return Ok(folder.stopped_before_the_first()),
        Err(e) if rows.is_empty() => {
            folder.remove_if_empty();
            return Err(e.into());
        }
        ended => ended,
    };
    let results = Results {
        preset,
        model: model.name.clone(),
        model_sha256: model.sha256()?,
        prompt: flags.prior.prompt,
        label,
        cse: flags.cse.cse.as_deref().map(shown),
        method: trial.settings.method.method(),
        steps: trial.settings.steps,
        seed,
        device: device.name(),
        version: env!("CARGO_PKG_VERSION"),
        lpips_network: lpips.as_ref().map(|l| l.name()),
        photos_asked: inputs.len() + bad,
        psnr: Mean::of(rows.iter().map(|r| r.psnr)),
        ssim: Mean::of(rows.iter().map(|r| r.ssim)),
        lpips: Mean::of(rows.iter().filter_map(|r| r.lpips)),
        seconds: Mean::of(rows.iter().map(|r| r.seconds)),
        photos: rows,
    };
    write_results(&folder, &results)?;
    match ended {
        Err(Error::Cancelled) => Ok(ExitCode::from(ErrorKind::Cancelled.exit_code())),
        Err(e) => Err(e.into()),
        Ok(()) if bad > 0 => Ok(ExitCode::from(ErrorKind::BadInput.exit_code())),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Reads the photos. Those that can't be read are reported, counted and left out. Fails if none is
/// left.
fn read_all(inputs: &mut Vec<Input>, side: usize) -> Result<(Vec<Picture>, usize)> {
    let (mut truths, count) = (Vec::new(), inputs.len());
    inputs.retain(|input| match read(&input.path, side) {
        Ok(truth) => {
            truths.push(truth);
            true
        }
        Err(e) => {
            complain!("dmap: {e}");
            false
        }
    });
    match truths.is_empty() {
        true => Err(Error::Invalid("none of the photos can be read".into())),
        false => Ok((truths, count - inputs.len())),
    }
}

/// A photo, resized by a triangle filter that widens with the reduction, as the benchmarks do.
fn read(path: &Path, side: usize) -> Result<Picture> {
    let picture = Photo::read(path)?.picture;
    if picture.width.min(picture.height) < side {
        let (w, h) = (picture.width, picture.height);
        complain!("dmap: {} has {w}x{h} pixels and is enlarged to {side}x{side}", shown(path));
    }
    Ok(picture.resize_triangle(side, side))
}

/// The figures of a restored photo, as the benchmark computes them.
fn row_of(name: &str, score: &Score, truth: &Picture, preset: PresetRow, lpips: Option<&Lpips>) -> Result<PhotoRow> {
    let comparison = Comparison::COLOUR.values(Values::Float).border(preset.border);
    let psnr = comparison.psnr(&score.picture, truth)?;
    let of_lpips = |l: &Lpips| l.distance(&score.picture, truth, LpipsRange::MinMax, preset.border);
    Ok(PhotoRow {
        photo: name.into(),
        // The benchmark adds 1e-8 to the mean squared error, which limits PSNR to 80 dB.
        psnr: -10.0 * (10f64.powf(-psnr / 10.0) + 1e-8).log10(),
        ssim: comparison.ssim(&score.picture, truth)?,
        lpips: lpips.map(of_lpips).transpose()?,
        psnr_baseline: score.baseline,
        residual_over_noise: Some(score.residual_ratio).filter(|r| r.is_finite()),
        seconds: score.seconds,
    })
}

fn write_results(folder: &ResultsFolder, results: &Results) -> Result<()> {
    let mut table = String::from("photo,psnr,ssim,lpips,psnr_baseline,residual_over_noise,seconds\n");
    for r in &results.photos {
        let [lpips, residual] = [r.lpips, r.residual_over_noise].map(csv_number);
        let photo = csv_text(&r.photo);
        table += &format!("{photo},{},{},{lpips},{},{residual},{}\n", r.psnr, r.ssim, r.psnr_baseline, r.seconds);
    }
    folder.write(results, &table)?;
    let shown_mean = |mean: Option<Mean>, decimals| mean.map_or(String::from("-"), |m| m.shown(decimals));
    let lpips = results.lpips.map_or(String::new(), |m| format!(", LPIPS {}", m.shown(4)));
    say!(
        "{} of {} photos: {} dB, SSIM {}{lpips} -> {}",
        results.photos.len(),
        results.photos_asked,
        shown_mean(results.psnr, 2),
        shown_mean(results.ssim, 4),
        shown(&folder.path)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_names_a_task() {
        for preset in PresetFlag::value_variants() {
            parse_task(preset.row().task).unwrap();
        }
    }
}
