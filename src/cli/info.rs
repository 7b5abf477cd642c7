//! `dmap info` and `dmap tasks`.

use super::quantity::readable;
use crate::error::Error;
use crate::graph::Dtype;
use crate::model::{AdmConfig, Model};
use crate::operator::OPERATORS;
use crate::sampler::METHODS;
use crate::weights::Checkpoint;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap info`.
#[derive(clap::Args, Debug)]
pub struct Info {
    /// A .safetensors or .pt file
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(flags: Info) -> anyhow::Result<ExitCode> {
    let checkpoint = Checkpoint::open(&flags.file)?;
    let mut kinds: Vec<&str> = (checkpoint.tensors.values())
        .map(|t| match t.dtype {
            Some(Dtype::F32) => "f32",
            Some(Dtype::F16) => "f16",
            Some(Dtype::Bf16) => "bf16",
            None => "other",
        })
        .collect();
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
    match AdmConfig::of_checkpoint(&checkpoint) {
        Ok(config) => {
            println!("ADM UNet: {}", serde_json::to_string(&config)?);
            match crate::model::adm::check_file(&config, &checkpoint) {
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
