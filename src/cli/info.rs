//! `dmap info` and `dmap tasks`.

use super::quantity::readable;
use crate::error::{Error, Result, shown};
use crate::model::{AdmConfig, ControlInfo, Model};
use crate::operator::{OPERATORS, OperatorRow};
use crate::sampler::{Answer, METHODS, MethodRow, parse_method};
use crate::weights::Checkpoint;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap info`.
#[derive(clap::Args, Debug)]
pub struct Info {
    /// A .safetensors or .pt file, the folder of a latent model, or the name of a prior inside the
    /// program: photo, tiny-latent
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(flags: Info) -> anyhow::Result<ExitCode> {
    if flags.file.is_dir() {
        if let Some(control) = ControlInfo::of_folder(&flags.file)? {
            say!("{}: a ControlNet in diffusers layout, {} parameters", shown(&flags.file), control.parameters)?;
            describe_control(&control)?;
            return Ok(ExitCode::SUCCESS);
        }
        let kind = "a latent diffusion model in diffusers layout, complete";
        return describe(&shown(&flags.file), kind, &Model::open(&flags.file)?);
    }
    if let Some(name @ ("photo" | "tiny-latent")) = flags.file.to_str()
        && !flags.file.exists()
    {
        return describe(name, "a prior inside the program", &Model::open_or_shipped(name)?);
    }
    let checkpoint = Checkpoint::open(&flags.file)?;
    let mut kinds: Vec<&str> = checkpoint.tensors.values().map(|t| t.number.name()).collect();
    kinds.sort();
    kinds.dedup();
    let bytes = std::fs::metadata(&flags.file).map_err(Error::io(&flags.file))?.len();
    say!(
        "{}: {} tensors, {} parameters, {}, {}",
        shown(&flags.file),
        checkpoint.tensors.len(),
        checkpoint.parameters(),
        kinds.join(" and "),
        readable(bytes)
    )?;
    match (ControlInfo::of_file(&checkpoint), AdmConfig::identify(&checkpoint)) {
        (Ok(Some(control)), _) => describe_control(&control)?,
        (Err(e), _) => say!("a ControlNet that is not usable as it is: {e}")?,
        (Ok(None), Ok(found)) => {
            say!("ADM UNet: {}", serde_json::to_string(&found.config)?)?;
            if let Some(what) = found.recognised {
                say!("recognised as {what}")?;
            }
            if let Some(warning) = found.warning {
                say!("{}", shown(warning))?;
            }
            match crate::model::adm::check_file(&found.config, &checkpoint) {
                Ok(()) => say!("complete: every tensor of the network is there, none is left over")?,
                Err(e) => say!("not usable as it is: {e}")?,
            }
        }
        (Ok(None), Err(e)) => say!("{e}")?,
    }
    if flags.tensors {
        for (name, tensor) in &checkpoint.tensors {
            say!("{} {:?}", shown(name), tensor.shape)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes a ControlNet: the models that it is for, and what it was trained for.
fn describe_control(control: &ControlInfo) -> Result<()> {
    let channels = control.config.condition_channels;
    match &control.unet_channels {
        Some(levels) => say!(
            "for latent models with a UNet of {levels:?} channels and images {} times the size of latents; reads an image of \
             {channels} channels",
            control.config.factor
        )?,
        None => say!("for pixel models; reads an image of {channels} channels")?,
    }
    match &control.origin {
        Some(o) => say!(
            "trained for --task {} with --noise {} and the model {}, on {} photos in {} steps",
            shown(&o.task),
            shown(&o.noise),
            shown(&o.model),
            o.shots,
            o.steps
        ),
        None => say!("does not say for which task and which model it was trained; --cse takes it, beside its model"),
    }
}

/// Describes an opened model: its parts were checked against their configurations.
fn describe(name: &str, kind: &str, model: &Model) -> anyhow::Result<ExitCode> {
    let prior = model.network.prior();
    say!("{name}: {kind}")?;
    if let (Some(latent), Some(text)) = (prior.latent, model.network.text_shape()) {
        say!(
            "latents of {} channels, {} pixels along a side each, scaled by {}",
            prior.channels,
            latent.factor,
            latent.scaling
        )?;
        say!("conditioned on {} tokens of {} channels", text.w, text.c)?;
    }
    say!("images of multiples of {} pixels; others are grown and cropped", prior.size_multiple)?;
    say!("predicts {}, {} steps, {}", prior.prediction, prior.diffusion_steps, prior.noise_schedule)?;
    if let Some(warning) = &model.warning {
        say!("{}", shown(warning))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list() -> Result<()> {
    say!("tasks (name:option=value,option=value):")?;
    for OperatorRow { name, about, options, .. } in OPERATORS {
        let name = if *name == "sr" { "sr<factor>" } else { name };
        say!("  {name:16} {about}{}", if options.is_empty() { String::new() } else { format!(" [{options}]") })?;
    }
    say!("methods (name:option=value,option=value):")?;
    for MethodRow { name, about, options, .. } in METHODS {
        let kind = if parse_method(name)?.1.answer() == Answer::Map { "one best image: " } else { "" };
        say!("  {name:16} {kind}{about}{}", if options.is_empty() { String::new() } else { format!(" [{options}]") })?;
    }
    say!("architectures for `dmap plan`:")?;
    for (name, what) in Model::architectures() {
        say!("  {name:16} {what}")?;
    }
    Ok(())
}
