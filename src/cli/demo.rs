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

/// Flags of `dmap demo`.
#[derive(clap::Args, Debug)]
pub struct Demo {
    /// Folder for the pictures
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
    /// With the small latent model instead of the pixel model
    #[arg(long)]
    latent: bool,
    /// What degrades the photo
    #[arg(long, default_value = "inpaint-random:missing=0.7")]
    task: String,
    /// Seed of mask, noise and sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceFlags,
}

pub(super) fn run(flags: Demo) -> anyhow::Result<ExitCode> {
    make_folder(&flags.out)?;
    let photo = flags.out.join("photo.png");
    write_whole(&photo, PHOTO)?;
    let model = if flags.latent { Model::shipped_latent()? } else { Model::shipped()? };
    let operator = parse_task(&flags.task)?;
    let noise = Noise::default();
    let settings = Settings::auto(Answer::Map, &model, operator.as_ref(), noise, None)?;
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
        batch: 1,
        read: ReadOptions::default(),
        label: None,
        measurement: false,
        save_every: None,
        overwrite: true,
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
