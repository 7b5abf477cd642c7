//! Restores the centre crops of a folder of photos for several tasks and methods, and prints a table in dB.
//!
//!     cargo bench --bench restoration -- --photos FOLDER --out benches/records/DATE-MACHINE/restoration
//!
//! Rows go to OUT.tsv as they are finished, and rows that are there already are not computed again.

use clap::Parser;
use dmap::backend::Device;
use dmap::graph::{PlanOptions, Shape};
use dmap::image::{Photo, Picture};
use dmap::metrics::{psnr, ssim};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::sampler::{Item, Measurement, Method, Noise, Restorer, Settings, WHITEN, Zeta};
use std::io::Write;
use std::ops::ControlFlow;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    photos: std::path::PathBuf,
    #[arg(long, default_value = "weights/photo.safetensors")]
    model: std::path::PathBuf,
    #[arg(long, default_value = "sr4,gaussian-blur,motion-blur,inpaint-box,inpaint-random", value_delimiter = ',')]
    tasks: Vec<String>,
    #[arg(long, default_value = "dps,dmap", value_delimiter = ',')]
    methods: Vec<String>,
    #[arg(long, default_value_t = 0.025)]
    noise: f64,
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Overrides of the methods' defaults, for tuning.
    #[arg(long)]
    steps: Option<usize>,
    #[arg(long)]
    inner: Option<usize>,
    #[arg(long, value_delimiter = ',')]
    zeta: Vec<f64>,
    #[arg(long)]
    absolute: bool,
    /// Deviation of images in the covariance of a blur's residual; 0 for the plain norm.
    #[arg(long, default_value_t = WHITEN)]
    whiten: f64,
    #[arg(long)]
    linear_spacing: bool,
    /// Share of the posterior's noise that a step adds.
    #[arg(long, default_value_t = 1.0)]
    eta: f64,
    /// Residual at which steps end, over the norm of the noise.
    #[arg(long, default_value_t = 1.0)]
    floor: f64,
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// Only every k-th photo.
    #[arg(long, default_value_t = 1)]
    every: usize,
    #[arg(long)]
    out: std::path::PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let a = Arguments::parse();
    let model = Model::open(&a.model)?;
    let mut photos: Vec<_> = std::fs::read_dir(&a.photos)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    photos.retain(|p| p.extension().is_some_and(|e| e == "png" || e == "jpg"));
    photos.sort();
    if let Some(folder) = a.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let path = a.out.with_extension("tsv");
    let done = std::fs::read_to_string(&path).unwrap_or_default();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
    if done.is_empty() {
        writeln!(
            file,
            "task\tmethod\tsteps\tinner\tzeta\twhiten\tsamples\tphoto\tpsnr\tssim\tbaseline\tresidual_ratio\tpasses\tseconds"
        )?;
    }
    for task in &a.tasks {
        let operator = parse_task(task)?;
        for name in &a.methods {
            let method = Method::parse(name)?;
            let mut settings = method.defaults_for(&model.network.prior());
            settings.steps = a.steps.unwrap_or(settings.steps);
            settings.inner = a.inner.unwrap_or(settings.inner);
            settings.eta = a.eta;
            settings.whiten = a.whiten;
            if a.linear_spacing {
                settings.spacing = dmap::sampler::Spacing::Linear;
            }
            let zetas = match a.zeta.as_slice() {
                [] => vec![settings.zeta],
                given => {
                    given.iter().map(|&z| if a.absolute { Zeta::Absolute(z) } else { Zeta::Relative(z) }).collect()
                }
            };
            for zeta in zetas {
                settings.zeta = zeta;
                let whiten = settings.whitening(operator.as_ref()).unwrap_or(0.0);
                let mut rows = Vec::new();
                for photo in photos.iter().step_by(a.every) {
                    let stem = photo.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    let (steps, inner) = (settings.steps, settings.inner);
                    let key = format!("{task}\t{name}\t{steps}\t{inner}\t{zeta:?}\t{whiten}\t{}\t{stem}\t", a.samples);
                    let row = match done.lines().find(|l| l.starts_with(&key)) {
                        Some(line) => line.to_string(),
                        None => {
                            let row = format!("{key}{}", restore(&a, &model, &operator, &settings, photo)?);
                            writeln!(file, "{row}")?;
                            row
                        }
                    };
                    rows.push(
                        row.split('\t').skip(8).map(|v| v.parse::<f64>().unwrap_or(f64::NAN)).collect::<Vec<_>>(),
                    );
                }
                let mean = |k: usize| rows.iter().map(|r| r[k]).sum::<f64>() / rows.len() as f64;
                println!(
                    "{task:16} {name:6} N={} K={} {zeta:?} x{}: {:.2} dB, ssim {:.3}, baseline {:.2} dB, residual/noise {:.3}, {} passes, {:.1} s",
                    settings.steps,
                    settings.inner,
                    a.samples,
                    mean(0),
                    mean(1),
                    mean(2),
                    mean(3),
                    mean(4),
                    mean(5)
                );
            }
        }
    }
    Ok(())
}

fn restore(
    a: &Arguments,
    model: &Model,
    operator: &std::sync::Arc<dyn dmap::operator::Operator>,
    settings: &Settings,
    photo: &std::path::Path,
) -> anyhow::Result<String> {
    let truth = Photo::read(photo)?.picture.centre_crop(a.size, a.size);
    let image = Shape::new(1, truth.height, truth.width, 3);
    let noise = Noise::Gaussian(a.noise);
    let (mut measurement, noise) = Measurement::simulate(operator.as_ref(), image, &truth.values, noise, a.seed)?;
    measurement.noise_norm *= a.floor;
    let mut restorer = Restorer::new(model, operator, settings, image, PlanOptions::default(), &Device::cpu())?;
    let start = std::time::Instant::now();
    let mut mean = vec![0f32; truth.values.len()];
    let mut residual = 0.0;
    for sample in 0..a.samples {
        let item = Item { measurement: measurement.clone(), seed: a.seed, sample, label: None };
        let restored = match restorer.restore(&[item], |_| ControlFlow::Continue(())) {
            Ok(mut r) => r.remove(0),
            Err(e) => {
                eprintln!("{}: {e}", photo.display());
                return Ok("NaN\tNaN\tNaN\tNaN\t0\t0".into());
            }
        };
        mean.iter_mut().zip(&restored.picture.values).for_each(|(m, v)| *m += v / a.samples as f32);
        residual += restored.residual / f64::from(a.samples);
    }
    let picture = Picture { values: mean, ..truth.clone() };
    if a.every > 1 {
        picture.write_png(&a.out.with_extension("last.png"))?;
    }
    let shape = operator.measurement_shape(image);
    let seen = Picture { width: shape.w, height: shape.h, values: measurement.y };
    let (_, baseline) = operator.baseline(&seen, &measurement.state, image);
    Ok(format!(
        "{:.3}\t{:.4}\t{:.3}\t{:.4}\t{}\t{:.2}",
        psnr(&picture, &truth),
        ssim(&picture, &truth),
        psnr(&baseline, &truth),
        residual / noise,
        settings.network_passes() * a.samples as usize,
        start.elapsed().as_secs_f64()
    ))
}
