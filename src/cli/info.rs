//! `dmap info` and `dmap tasks`.

use super::quantity::readable;
use crate::error::{Error, Result, shown};
use crate::model::{AdmConfig, Model};
use crate::operator::{OPERATORS, OperatorRow};
use crate::sampler::{Answer, METHODS, MethodRow, parse_method};
use crate::weights::Checkpoint;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `dmap info`.
#[derive(clap::Args, Debug)]
pub struct Info {
    /// A .safetensors or .pt file, or the folder of a latent model
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(flags: Info) -> anyhow::Result<ExitCode> {
    if flags.file.is_dir() {
        return folder(&flags.file);
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
    match AdmConfig::identify(&checkpoint) {
        Ok(found) => {
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
        Err(e) => say!("{e}")?,
    }
    if flags.tensors {
        for (name, tensor) in &checkpoint.tensors {
            say!("{} {:?}", shown(name), tensor.shape)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes a model folder. Opening it checks all its parts against their configurations.
fn folder(path: &Path) -> anyhow::Result<ExitCode> {
    let model = Model::open(path)?;
    let prior = model.network.prior();
    say!("{}: a latent diffusion model in diffusers layout, complete", shown(path))?;
    if let (Some(latent), Some(text)) = (prior.latent, model.network.text_shape()) {
        say!(
            "latents of {} channels, {} pixels along a side each, scaled by {}",
            prior.channels,
            latent.factor,
            latent.scaling
        )?;
        say!("images of multiples of {} pixels; others are grown and cropped", prior.size_multiple)?;
        say!("conditioned on {} tokens of {} channels", text.w, text.c)?;
    }
    say!("predicts {}, {} steps, {}", prior.prediction, prior.diffusion_steps, prior.noise_schedule)?;
    if let Some(warning) = model.warning {
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
    say!("presets for `dmap plan`:")?;
    for (name, what) in Model::presets() {
        say!("  {name:16} {what}")?;
    }
    Ok(())
}
