//! Diffusion models: a configuration, the graph of the network, and the weights of a file.

pub mod adm;
pub mod adm_config;

pub use adm_config::AdmConfig;

use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, Source, TensorId};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::weights::{Checkpoint, Weights};
use std::path::Path;
use std::sync::Arc;

/// What a sampler has to know about a prior.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// Channels of the image.
    pub channels: usize,
    /// The network also gives the interpolation of the log variance, as further channels.
    pub learn_sigma: bool,
    /// Number of classes of a class-conditional model.
    pub classes: Option<usize>,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// Name of the training schedule.
    pub noise_schedule: String,
    /// The network is told `t * 1000 / diffusion_steps`.
    pub rescale_timesteps: bool,
    /// Height and width must be multiples of this.
    pub size_multiple: usize,
}

/// A network that predicts eps.
pub trait Network: Send + Sync {
    /// What it is.
    fn prior(&self) -> Prior;

    /// Records the evaluation of x (n, h, w, channels) at timesteps t (n, 1, 1, 1), with labels (n, 1, 1, 1) for a
    /// class-conditional model. Gives eps, then the variance's channels if learned.
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, labels: Option<TensorId>) -> Result<TensorId>;
}

impl Network for AdmConfig {
    fn prior(&self) -> Prior {
        Prior {
            channels: self.in_channels,
            learn_sigma: self.learn_sigma,
            classes: self.class_cond.then_some(self.num_classes),
            diffusion_steps: self.diffusion_steps,
            noise_schedule: self.noise_schedule.clone(),
            rescale_timesteps: self.rescale_timesteps,
            size_multiple: self.size_multiple(),
        }
    }
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, labels: Option<TensorId>) -> Result<TensorId> {
        adm::adm(g, self, x, t, labels)
    }
}

/// A diffusion model: a network and its weights. A preset has no weights and serves for planning.
pub struct Model {
    /// The network.
    pub network: Arc<dyn Network>,
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
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name })
    }

    /// The prior inside the program: 4.4 million parameters, trained on photographs (weights/README.md).
    pub fn shipped() -> Result<Model> {
        let checkpoint = Checkpoint::of_bytes("photo", include_bytes!("../../weights/photo.safetensors"))?;
        let config = AdmConfig::of_checkpoint(&checkpoint)?;
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name: "photo".into() })
    }

    /// A weight file, or the prior inside the program for the name `photo`.
    pub fn open_or_shipped(name: &str) -> Result<Model> {
        if name == "photo" && !Path::new(name).exists() { Model::shipped() } else { Model::open(name) }
    }

    /// A known architecture without weights.
    pub fn preset(name: &str) -> Result<Model> {
        let config = AdmConfig::preset(name)?;
        Ok(Model { network: Arc::new(config), weights: Weights::none(), name: name.to_string() })
    }

    /// This architecture with small random weights, for measuring.
    pub fn with_random_weights(self) -> Model {
        let mut g = Graph::new();
        let prior = self.network.prior();
        let x = g.input("x", Shape::new(1, prior.size_multiple, prior.size_multiple, prior.channels));
        let t = g.input("t", Shape::rows(1, 1));
        let labels = prior.classes.map(|_| g.input("labels", Shape::rows(1, 1)));
        let recorded = self.network.record(&mut g, x, t, labels);
        debug_assert!(recorded.is_ok(), "a known architecture");
        let values = g.tensors().iter().filter(|t| matches!(t.source, Source::Weight)).enumerate().map(|(k, t)| {
            let mut values = vec![0.0; t.shape.numel()];
            fill_normal(&NoiseKey { seed: 0, image: k as u32, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
            // About the variance that keeps activations of size 1.
            let deviation = ((t.shape.item().max(2)) as f32).sqrt().recip();
            values.iter_mut().for_each(|v| *v *= deviation);
            (t.name.clone(), values)
        });
        Model { weights: Weights::from_values(values), ..self }
    }

    /// A file if there is one of that name, else a preset.
    pub fn file_or_preset(name: &str) -> Result<Model> {
        if Path::new(name).exists() { Model::open(name) } else { Model::preset(name) }
    }
}
