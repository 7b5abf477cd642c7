//! Diffusion models: a configuration, the graph of the network, and the weights of a file.

pub mod adm;
pub mod adm_config;

pub use adm_config::AdmConfig;

use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Weights};
use std::path::Path;

/// A diffusion model: what it is and its weights. A preset has no weights and serves for planning.
pub struct Model {
    /// The architecture and the schedule that the model was trained with.
    pub config: AdmConfig,
    /// Its weights; [`Weights::none`] for a preset.
    pub weights: Weights,
    /// File name or preset name, for reports.
    pub name: String,
}

impl Model {
    /// Opens a weight file. The configuration comes from the file's metadata, else from a JSON file of the same name
    /// beside it, else from the shapes of the tensors. Missing, unexpected and mis-shaped tensors are errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        if !path.exists() {
            let presets = AdmConfig::PRESETS.map(|p| p.0).join(", ");
            let reason = format!("no such weight file; presets ({presets}) serve only for `dmap plan`");
            return Err(Error::Weights { path: path.into(), reason });
        }
        let checkpoint = Checkpoint::open(path)?;
        let config = AdmConfig::of_checkpoint(&checkpoint)?;
        adm::check_tensors(&config, &checkpoint)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Model { config, weights: Weights::new(checkpoint), name })
    }

    /// The prior inside the program: 4.4 million parameters, trained on photographs (weights/README.md).
    pub fn shipped() -> Result<Model> {
        let checkpoint = Checkpoint::of_bytes("photo", include_bytes!("../../weights/photo.safetensors"))?;
        let config = AdmConfig::of_checkpoint(&checkpoint)?;
        Ok(Model { config, weights: Weights::new(checkpoint), name: "photo".into() })
    }

    /// A weight file, or the prior inside the program for the name `photo`.
    pub fn open_or_shipped(name: &str) -> Result<Model> {
        if name == "photo" && !Path::new(name).exists() { Model::shipped() } else { Model::open(name) }
    }

    /// A known architecture without weights.
    pub fn preset(name: &str) -> Result<Model> {
        let config = AdmConfig::preset(name)?;
        Ok(Model { config, weights: Weights::none(), name: name.to_string() })
    }

    /// A file if there is one of that name, else a preset.
    pub fn file_or_preset(name: &str) -> Result<Model> {
        if Path::new(name).exists() { Model::open(name) } else { Model::preset(name) }
    }
}
