//! `dmap demo`: one shipped photo, degraded and restored.

use super::device::DeviceFlags;
use super::inputs::Input;
use super::job::Job;
use super::make_folder;
use super::queue::restore_all;
use super::restore::task_file_sha256;
use crate::image::{ReadOptions, write_whole};
use crate::model::Model;
use crate::operator::parse_task;
use crate::sampler::{Answer, Noise, Settings, method};
use std::path::PathBuf;
use std::process::ExitCode;

/// The photo of the demonstration. demo/README.md names its author and licence.
const PHOTO: &[u8] = include_bytes!("../../demo/photo.png");

/// The method of `--cse` and its noise levels.
const CSE: &str = "cse:from=2";
const CSE_LEVELS: usize = 14;

/// Flags of `dmap demo`.
#[derive(clap::Args, Debug)]
pub struct Demo {
    /// Folder for the pictures
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
    /// With the small latent model instead of the pixel model
    #[arg(long)]
    latent: bool,
    /// With the conditional score estimator inside the program, by its method alone; for the tasks
    /// sr4 and gaussian-blur
    #[arg(long, conflicts_with = "latent")]
    cse: bool,
    /// What degrades the photo [default: inpaint-random:missing=0.7, with --cse sr4]
    #[arg(long)]
    task: Option<String>,
    /// Seed of mask, noise and sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceFlags,
}

pub(super) fn run(flags: Demo) -> anyhow::Result<ExitCode> {
    let usual_task = if flags.cse { "sr4" } else { "inpaint-random:missing=0.7" };
    let operator = parse_task(flags.task.as_deref().unwrap_or(usual_task))?;
    let mut model = if flags.latent { Model::shipped_latent()? } else { Model::shipped()? };
    let noise = Noise::default();
    let settings = if flags.cse {
        model = model.with_shipped_control(&operator.task(), 1.0)?;
        Settings::parse(CSE, &model.network.prior())?.steps(CSE_LEVELS)
    } else {
        Settings::auto(Answer::Map, &model, operator.as_ref(), noise, None)?
    };
    make_folder(&flags.out)?;
    let photo = flags.out.join("photo.png");
    write_whole(&photo, PHOTO)?;
    let job = Job {
        task_file_sha256: task_file_sha256(operator.as_ref())?,
        operator,
        settings,
        model_sha256: model.sha256()?,
        model,
        device: flags.device.open()?,
        plan: flags.device.plan()?,
        out: flags.out.clone(),
        noise: Some(noise),
        seed: flags.seed,
        samples: 1,
        restarts: 1,
        batch: 1,
        read: ReadOptions::default(),
        label: None,
        measurement: false,
        save_every: None,
        overwrite: true,
        report: None,
        lpips: None,
        json: false,
        prompt: None,
        precision: flags.device.precision(),
    };
    say!(
        "restoring a photo of 256x256 pixels from {} by {} on {}",
        job.operator.task(),
        method::name(job.settings.method.as_ref()),
        job.device.name_and_reason()
    )?;
    let code = restore_all(&job, &[Input { path: photo, name: "photo".into() }])?;
    if code == ExitCode::SUCCESS {
        say!("look at {}", flags.out.join("photo/comparison.png").display())?;
    }
    Ok(code)
}
