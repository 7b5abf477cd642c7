//! Diffusion models: a configuration, the graph of the network, and the weights of a file.

pub mod adm;
pub mod adm_config;
mod adm_json;
mod adm_known;
mod adm_open;
mod adm_shapes;
mod config_file;
pub mod control;
pub mod control_file;
mod control_info;
pub mod controlnet;
pub mod latent_config;
mod network;
mod opened;
mod residual;
pub mod scheduler_config;
mod shipped;
pub mod stable_diffusion;
pub mod text_encoder;
mod tokenizer;
pub mod training_schedule;
pub mod unet;
pub mod vae;

pub use adm_config::AdmConfig;
pub use adm_open::Identified;
pub use control::{ControlConfig, Encoded};
pub use control_info::ControlInfo;
pub use controlnet::ControlOrigin;
pub use latent_config::{TextConfig, UnetConfig, VaeConfig};
pub use network::{Codec, Condition, Conditioning, Latent, Network, Prediction, Prior};
pub use opened::Model;
pub use scheduler_config::SchedulerConfig;
pub use stable_diffusion::LatentDiffusion;
pub use training_schedule::NoiseSchedule;

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::tensor::Shape;
use crate::weights::{Checkpoint, Weights, hexadecimal};
use sha2::{Digest, Sha256};
pub(crate) use shipped::{PHOTO, TINY_LATENT};
use std::path::Path;
use std::sync::Arc;

impl Model {
    /// Opens a weight file of an ADM UNet, or a folder of a latent diffusion model in diffusers
    /// layout. The configuration of a file comes from its metadata, else from a JSON file of the
    /// same name beside it, else from the shapes of the tensors. Missing, unexpected and mis-shaped
    /// tensors are errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        if path.is_dir() {
            return stable_diffusion::open(path, None);
        }
        if !path.exists() {
            let names = Model::architectures().map(|p| p.0).collect::<Vec<_>>().join(", ");
            let reason = format!("no such weight file; architectures ({names}) serve only for `dmap plan`");
            return Err(Error::Weights { path: path.into(), reason });
        }
        let checkpoint = Checkpoint::open(path)?;
        let Identified { config, warning, .. } = AdmConfig::identify(&checkpoint)?;
        adm::check_file(&config, &checkpoint)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name, warning })
    }

    /// As [`Model::open_or_shipped`], with a latent model conditioned on the text `prompt`. None
    /// keeps the model's default text.
    pub fn open_with_prompt(name: &str, prompt: Option<&str>) -> Result<Model> {
        match prompt {
            None => Model::open_or_shipped(name),
            Some(_) if Path::new(name).is_dir() => stable_diffusion::open(Path::new(name), prompt),
            Some(_) => {
                Err(Error::Invalid(format!("--prompt is for latent models with a text encoder; {name} has none")))
            }
        }
    }

    /// The prior inside the program: 4.4 million parameters, trained on photographs
    /// (weights/photo/README.md). Fails in a build without the feature `shipped`.
    pub fn shipped() -> Result<Model> {
        let checkpoint = Checkpoint::of_bytes(PHOTO, shipped::file(PHOTO, "photo.safetensors")?)?;
        let config = AdmConfig::of_checkpoint(&checkpoint)?;
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name: PHOTO.into(), warning: None })
    }

    /// The latent model inside the program: 5.6 million parameters, trained on photographs
    /// (weights/tiny-latent/README.md). Fails in a build without the feature `shipped`.
    pub fn shipped_latent() -> Result<Model> {
        stable_diffusion::shipped()
    }

    /// Opens a weight file or folder, as [`Model::open`]. If there is none of that name, `photo`
    /// and `tiny-latent` are the priors inside the program.
    pub fn open_or_shipped(name: &str) -> Result<Model> {
        match name {
            _ if Path::new(name).exists() => Model::open(name),
            PHOTO => Model::shipped(),
            TINY_LATENT => Model::shipped_latent(),
            _ => Model::open(name),
        }
    }

    /// A known architecture without weights. Fails on an unknown name.
    pub fn architecture(name: &str) -> Result<Model> {
        let network: Arc<dyn Network> = match (LatentDiffusion::architecture(name), AdmConfig::architecture(name)) {
            (Some(latent), _) => Arc::new(latent),
            (None, Some(adm)) => Arc::new(adm),
            (None, None) => {
                let known = Model::architectures().map(|p| p.0).collect::<Vec<_>>().join(", ");
                return Err(Error::Invalid(format!(
                    "no weight file and no architecture named {name}; there are {known}"
                )));
            }
        };
        Ok(Model { network, weights: Weights::none(), name: name.to_string(), warning: None })
    }

    /// Names and descriptions of the known architectures.
    pub fn architectures() -> impl Iterator<Item = (&'static str, &'static str)> {
        AdmConfig::ARCHITECTURES.into_iter().chain(LatentDiffusion::ARCHITECTURES)
    }

    /// This architecture with small random weights, for measurements of speed and memory.
    pub fn with_random_weights(self) -> Model {
        let mut g = Graph::new();
        let prior = self.network.prior();
        let x = g.input("x", prior.canvas(Shape::new(1, prior.size_multiple, prior.size_multiple, 3)));
        let t = g.input("t", Shape::rows(1, 1));
        let labels = prior.classes.map(|_| g.input("labels", Shape::rows(1, 1)));
        let recorded = self.network.record(&mut g, x, t, &Conditioning::default().labels(labels));
        let recorded = recorded.and_then(|_| self.network.codec().map_or(Ok(x), |codec| codec.decode(&mut g, x)));
        debug_assert!(recorded.is_ok(), "a known architecture");
        let values = g.weight_parts().enumerate().map(|(k, t)| {
            let mut values = vec![0.0; t.shape.numel()];
            fill_normal(&NoiseKey { seed: 0, image: k as u32, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
            // About the standard deviation that keeps the size of activations near 1.
            let sigma = ((t.shape.item().max(2)) as f32).sqrt().recip();
            values.iter_mut().for_each(|v| *v *= sigma);
            (t.name.clone(), values)
        });
        Model { weights: Weights::from_values(values), ..self }
    }

    /// SHA-256, in hexadecimal, over the configuration of the network and over what
    /// [`Weights::sha256`] reads of its weights.
    pub fn sha256(&self) -> Result<String> {
        let hash = Sha256::new_with_prefix(format!("{:?}", self.network)).chain_update(self.weights.sha256()?);
        Ok(hexadecimal(hash))
    }

    /// Opens the weight file or folder of this name if there is one, else takes the architecture.
    pub fn file_or_architecture(name: &str) -> Result<Model> {
        if Path::new(name).exists() { Model::open(name) } else { Model::architecture(name) }
    }
}
