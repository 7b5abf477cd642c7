//! Restores the centre crops of a folder of photos for several tasks, noises and methods, and
//! prints a table in dB.
//!
//!     cargo bench --bench restoration -- --photos FOLDER --out benches/records/DATE-MACHINE/restoration.tsv \
//!         --method dmap --method dps:step=published:80@28
//!
//! `METHOD@STEPS` takes another number of noise levels than the tuned one; with `--passes N` each
//! method takes as many levels as N network passes allow. `auto` is what `dmap restore` would take.
//! `{sigma}` in a method stands for the noise in [-1, 1] units.
//! Rows go to the file as they are finished, and rows that are there already are not computed again.

use anyhow::Context;
use clap::Parser;
use dmap::backend::Device;
use dmap::graph::PlanOptions;
use dmap::image::Photo;
use dmap::model::Model;
use dmap::operator::{Operator, parse_task};
use dmap::sampler::{Answer, Noise, Settings, Spacing};
use dmap::trial::Trial;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    photos: PathBuf,
    /// A weight file, or the folder of a latent model; `photo` and `tiny-latent` are inside the
    /// program.
    #[arg(long, default_value = "photo")]
    model: String,
    /// A conditional score estimator of the task; its name follows the method's in the table.
    #[arg(long)]
    cse: Option<PathBuf>,
    #[arg(long = "task", default_values_t = ["sr4", "gaussian-blur", "motion-blur", "inpaint-box", "inpaint-random"].map(String::from))]
    tasks: Vec<String>,
    #[arg(long = "method", default_values_t = ["dps", "dmap"].map(String::from))]
    methods: Vec<String>,
    /// Network passes of one image: forward evaluations plus VJPs.
    #[arg(long)]
    passes: Option<usize>,
    #[arg(long = "noise", default_values_t = [0.025])]
    noises: Vec<f64>,
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    linear_spacing: bool,
    /// Share of the posterior's noise that a step adds.
    #[arg(long, default_value_t = 1.0)]
    eta: f64,
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// `auto` is what `dmap restore --estimate sample` would take.
    #[arg(long)]
    sample: bool,
    /// Only every k-th photo, and from which on.
    #[arg(long, default_value_t = 1)]
    every: usize,
    #[arg(long, default_value_t = 0)]
    first: usize,
    #[arg(long)]
    out: PathBuf,
    /// A folder for the restored pictures.
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Columns that tell rows apart, then what was measured.
const COLUMNS: &str = "task\tnoise\tmethod\tsteps\teta\tsamples\tphoto\tpsnr\tssim\tsample_psnr\tdeviation\tcrps\tbaseline\t\
                       residual_ratio\tpasses\tseconds";
/// How many columns tell rows apart.
const KEY: usize = 7;

fn main() -> anyhow::Result<()> {
    let a = Arguments::parse();
    let mut model = Model::open_or_shipped(&a.model)?;
    if let Some(path) = &a.cse {
        model = model.with_control(path, 1.0)?;
    }
    let cse = a.cse.as_deref().and_then(Path::file_stem).map_or(String::new(), |n| format!("+{}", n.to_string_lossy()));
    let mut photos: Vec<_> = std::fs::read_dir(&a.photos)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    photos.retain(|p| p.extension().is_some_and(|e| e == "png" || e == "jpg"));
    photos.sort();
    for folder in a.out.parent().into_iter().chain(a.pictures.as_deref()) {
        std::fs::create_dir_all(folder)?;
    }
    let done = std::fs::read_to_string(&a.out).unwrap_or_default();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&a.out)?;
    if done.is_empty() {
        writeln!(file, "{COLUMNS}")?;
    }
    let answer = if a.sample { Answer::Sample } else { Answer::Map };
    for task in &a.tasks {
        let operator = parse_task(task)?;
        for noise in &a.noises {
            for typed in &a.methods {
                let typed = &typed.replace("{sigma}", &(2.0 * noise).to_string());
                let (method, steps) = typed.split_once('@').map_or((&typed[..], None), |(m, s)| (m, Some(s)));
                let prior = model.network.prior();
                let sigma = Noise::Gaussian(*noise);
                let mut settings = match (method, a.passes) {
                    ("auto", passes) => Settings::auto(answer, &model, operator.as_ref(), sigma, passes)?,
                    (method, None) => Settings::parse(method, &prior)?,
                    (method, Some(passes)) => Settings::parse(method, &prior)?.within(passes, &model)?,
                };
                if let Some(steps) = steps {
                    anyhow::ensure!(a.passes.is_none(), "{typed}: leave the levels or --passes out");
                    settings.steps = steps.parse().with_context(|| format!("{typed}: the levels are no number"))?;
                }
                settings.eta = a.eta;
                if a.linear_spacing {
                    settings.spacing = Spacing::Linear;
                }
                let mut rows: Vec<Vec<f64>> = Vec::new();
                for photo in photos.iter().skip(a.first).step_by(a.every) {
                    let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
                    let (name, steps, eta) = (settings.method.method() + &cse, settings.steps, a.eta);
                    let key = format!("{task}\t{noise}\t{name}\t{steps}\t{eta}\t{}\t{stem}\t", a.samples);
                    let row = match done.lines().find(|l| l.starts_with(&key)) {
                        Some(line) => line.to_string(),
                        None => {
                            let row = format!("{key}{}", restore(&a, &model, &operator, &settings, photo, *noise)?);
                            writeln!(file, "{row}")?;
                            row
                        }
                    };
                    rows.push(row.split('\t').skip(KEY).map(|v| v.parse().unwrap_or(f64::NAN)).collect());
                }
                let mean = |k: usize| rows.iter().map(|r| r[k]).sum::<f64>() / rows.len() as f64;
                let [psnr, ssim, sample_psnr, deviation, crps, baseline, ratio, passes, seconds] =
                    std::array::from_fn(mean);
                println!(
                    "{task:16} {noise:5} {psnr:6.2} dB (baseline {baseline:.2}), ssim {ssim:.3}, of a sample {sample_psnr:.2} dB, \
                     deviation {deviation:.3}, crps {crps:.4}, residual/noise {ratio:.3}, {passes} passes, {seconds:.1} s, {}{cse}@{} x{}",
                    settings.method.method(),
                    settings.steps,
                    a.samples
                );
            }
        }
    }
    Ok(())
}

fn restore(
    a: &Arguments,
    model: &Model,
    operator: &Arc<dyn Operator>,
    settings: &Settings,
    photo: &Path,
    noise: f64,
) -> anyhow::Result<String> {
    let truth = Photo::read(photo)?.picture.centre_crop(a.size, a.size);
    let trial = Trial {
        model,
        label: None,
        operator,
        settings: settings.clone(),
        noise: Noise::Gaussian(noise),
        seed: a.seed,
        samples: a.samples,
        restarts: 1,
        plan: PlanOptions::default(),
        device: &Device::cpu(),
    };
    let score = match trial.run(&[truth], || ControlFlow::Continue(())) {
        Ok(mut scores) => scores.remove(0),
        Err(e) => {
            eprintln!("{}: {e}", photo.display());
            return Ok("NaN\tNaN\tNaN\tNaN\tNaN\tNaN\tNaN\t0\t0".into());
        }
    };
    if let Some(folder) = &a.pictures {
        let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{}-{stem}.png", settings.method.method()).replace([':', ',', '='], "_");
        score.picture.write_png(&folder.join(name))?;
    }
    Ok(format!(
        "{:.3}\t{:.4}\t{:.3}\t{:.4}\t{:.5}\t{:.3}\t{:.4}\t{}\t{:.2}",
        score.psnr,
        score.ssim,
        score.sample_psnr,
        score.deviation,
        score.crps,
        score.baseline,
        score.residual_ratio,
        score.passes,
        score.seconds
    ))
}
