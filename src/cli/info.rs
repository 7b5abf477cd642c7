//! `dmap info` and `dmap tasks`.

use super::quantity::readable;
use crate::error::Error;
use crate::model::{AdmConfig, Model};
use crate::operator::OPERATORS;
use crate::sampler::METHODS;
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
    println!(
        "{}: {} tensors, {} parameters, {}, {}",
        flags.file.display(),
        checkpoint.tensors.len(),
        checkpoint.parameters(),
        kinds.join(" and "),
        readable(bytes)
    );
    match AdmConfig::identify(&checkpoint) {
        Ok(found) => {
            println!("ADM UNet: {}", serde_json::to_string(&found.config)?);
            if let Some(what) = found.recognised {
                println!("recognised as {what}");
            }
            if let Some(warning) = found.warning {
                println!("{warning}");
            }
            match crate::model::adm::check_file(&found.config, &checkpoint) {
                Ok(()) => println!("complete: every tensor of the network is there, none is left over"),
                Err(e) => println!("not usable as it is: {e}"),
            }
        }
        Err(e) => println!("{e}"),
    }
    if flags.tensors {
        for (name, tensor) in &checkpoint.tensors {
            println!("{name} {:?}", tensor.shape);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder that opens is complete: its parts were checked against their configurations.
fn folder(path: &Path) -> anyhow::Result<ExitCode> {
    let model = Model::open(path)?;
    let prior = model.network.prior();
    println!("{}: a latent diffusion model in diffusers layout, complete", path.display());
    if let (Some(latent), Some(text)) = (prior.latent, model.network.context_shape()) {
        println!(
            "codes of {} channels, {} pixels along a side each, scaled by {}",
            prior.channels, latent.factor, latent.scaling
        );
        println!("images of multiples of {} pixels; others are grown and cropped", prior.size_multiple);
        println!("conditioned on {} tokens of {} channels", text.w, text.c);
    }
    println!("predicts {}, {} steps, {}", prior.prediction, prior.diffusion_steps, prior.noise_schedule);
    if let Some(warning) = model.warning {
        println!("{warning}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list() {
    println!("tasks (name:option=value,option=value):");
    for (name, options, what, _) in OPERATORS {
        let name = if *name == "sr" { "sr<factor>" } else { name };
        println!("  {name:16} {what}{}", if options.is_empty() { String::new() } else { format!(" [{options}]") });
    }
    println!("methods:");
    for row in METHODS {
        println!("  {:16} {}", row.name, row.what);
    }
    println!("presets for `dmap plan`:");
    for (name, what) in Model::presets() {
        println!("  {name:16} {what}");
    }
}
