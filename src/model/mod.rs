//! Diffusion models: a configuration, the graph of the network, and the weights of a file.

pub mod adm;
pub mod adm_config;
mod adm_json;
mod adm_known;
mod adm_shapes;
mod config_file;
pub mod latent_config;
mod residual;
pub mod scheduler_config;
pub mod stable_diffusion;
pub mod text_encoder;
mod tokenizer;
pub mod training_schedule;
pub mod unet;
pub mod vae;

pub use adm_config::{AdmConfig, Identified};
pub use latent_config::{TextConfig, UnetConfig, VaeConfig};
pub use scheduler_config::SchedulerConfig;
pub use stable_diffusion::LatentDiffusion;

use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, Source, TensorId};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::weights::{Checkpoint, Weights, hexadecimal};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
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
    /// Height and width of the image must be multiples of this.
    pub size_multiple: usize,
    /// What the network's output is.
    pub prediction: Prediction,
    /// x is the code of an image and not the image itself.
    pub latent: Option<Latent>,
}

/// What a network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prediction {
    /// The noise: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.
    #[default]
    Epsilon,
    /// v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022).
    V,
}

impl std::fmt::Display for Prediction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Prediction::V { "v" } else { "epsilon" })
    }
}

/// How codes relate to images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Pixels of the image along one side of a code's pixel.
    pub factor: usize,
    /// Channels of the image.
    pub image_channels: usize,
    /// x is the encoder's code times this.
    pub scaling: f64,
}

impl Prior {
    /// Channels of the images that are restored.
    pub fn image_channels(&self) -> usize {
        self.latent.map_or(self.channels, |l| l.image_channels)
    }

    /// Extent of x for images of this extent: grown to what the model takes, and that of the code in a latent model.
    pub fn canvas(&self, image: Shape) -> Shape {
        let factor = self.latent.map_or(1, |l| l.factor);
        let grown = |size: usize| size.next_multiple_of(self.size_multiple) / factor;
        Shape { h: grown(image.h), w: grown(image.w), c: self.channels, ..image }
    }
}

/// A network that predicts eps or v.
pub trait Network: Send + Sync + std::fmt::Debug {
    /// What it is.
    fn prior(&self) -> Prior;

    /// Records the evaluation of x (n, h, w, channels) at timesteps t (n, 1, 1, 1), with labels (n, 1, 1, 1) for a
    /// class-conditional model. Gives eps (or v), then the variance's channels if learned.
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, labels: Option<TensorId>) -> Result<TensorId>;

    /// Extent of the embedded text that a model is conditioned on, for one item: (1, 1, tokens, channels).
    fn context_shape(&self) -> Option<Shape> {
        None
    }

    /// As [`Network::record`] with an embedded text (n or 1, 1, tokens, channels) in place of the model's own.
    fn record_with_text(&self, _: &mut Graph, _: TensorId, _: TensorId, _: TensorId) -> Result<TensorId> {
        Err(Error::Invalid("a pixel model is given no text".into()))
    }

    /// Mean and log variance of the code of an image, not scaled: what a latent model's encoder gives.
    fn encode(&self, _: &mut Graph, _: TensorId) -> Result<TensorId> {
        Err(Error::Invalid("a pixel model has no encoder".into()))
    }

    /// The image of a clean x: of a latent model the decoder's, else x itself.
    fn decode(&self, _: &mut Graph, x0: TensorId) -> Result<TensorId> {
        Ok(x0)
    }
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
            prediction: Prediction::Epsilon,
            latent: None,
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
    /// What a user should be told about it.
    pub warning: Option<String>,
}

impl Model {
    /// Opens a weight file of an ADM UNet, or a folder of a latent diffusion model in diffusers layout. The configuration of a file
    /// comes from its metadata, else from a JSON file of the same name beside it, else from the shapes of the tensors. Missing,
    /// unexpected and mis-shaped tensors are errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        if path.is_dir() {
            return stable_diffusion::open(path, None);
        }
        if !path.exists() {
            let presets = Model::presets().map(|p| p.0).collect::<Vec<_>>().join(", ");
            let reason = format!("no such weight file; presets ({presets}) serve only for `dmap plan`");
            return Err(Error::Weights { path: path.into(), reason });
        }
        let checkpoint = Checkpoint::open(path)?;
        let Identified { config, warning, .. } = AdmConfig::identify(&checkpoint)?;
        adm::check_file(&config, &checkpoint)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name, warning })
    }

    /// As [`Model::open_or_shipped`], a latent model conditioned on a text in place of the empty one.
    pub fn open_with_prompt(name: &str, prompt: Option<&str>) -> Result<Model> {
        match prompt {
            None => Model::open_or_shipped(name),
            Some(_) if Path::new(name).is_dir() => stable_diffusion::open(Path::new(name), prompt),
            Some(_) => {
                Err(Error::Invalid(format!("--prompt is for latent models with a text encoder; {name} has none")))
            }
        }
    }

    /// The prior inside the program: 4.4 million parameters, trained on photographs (weights/README.md).
    pub fn shipped() -> Result<Model> {
        let checkpoint = Checkpoint::of_bytes("photo", include_bytes!("../../weights/photo.safetensors"))?;
        let config = AdmConfig::of_checkpoint(&checkpoint)?;
        Ok(Model { network: Arc::new(config), weights: Weights::new(checkpoint), name: "photo".into(), warning: None })
    }

    /// The latent model inside the program: 5.6 million parameters, trained on photographs (weights/tiny-latent/README.md).
    pub fn shipped_latent() -> Result<Model> {
        stable_diffusion::shipped()
    }

    /// A weight file or folder, or a prior inside the program for the names `photo` and `tiny-latent`.
    pub fn open_or_shipped(name: &str) -> Result<Model> {
        match name {
            _ if Path::new(name).exists() => Model::open(name),
            "photo" => Model::shipped(),
            "tiny-latent" => Model::shipped_latent(),
            _ => Model::open(name),
        }
    }

    /// A known architecture without weights.
    pub fn preset(name: &str) -> Result<Model> {
        let network: Arc<dyn Network> = match (LatentDiffusion::preset(name), AdmConfig::preset(name)) {
            (Some(latent), _) => Arc::new(latent),
            (None, Some(adm)) => Arc::new(adm),
            (None, None) => {
                let known = Model::presets().map(|p| p.0).collect::<Vec<_>>().join(", ");
                return Err(Error::Invalid(format!("no weight file and no preset named {name}; presets: {known}")));
            }
        };
        Ok(Model { network, weights: Weights::none(), name: name.to_string(), warning: None })
    }

    /// Names of known architectures, and what they are.
    pub fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
        AdmConfig::PRESETS.into_iter().chain(LatentDiffusion::PRESETS)
    }

    /// This architecture with small random weights, for measuring.
    pub fn with_random_weights(self) -> Model {
        let mut g = Graph::new();
        let prior = self.network.prior();
        let x = g.input("x", prior.canvas(Shape::new(1, prior.size_multiple, prior.size_multiple, 3)));
        let t = g.input("t", Shape::rows(1, 1));
        let labels = prior.classes.map(|_| g.input("labels", Shape::rows(1, 1)));
        let recorded = self.network.record(&mut g, x, t, labels).and_then(|_| self.network.decode(&mut g, x));
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

    /// SHA-256, in hexadecimal, over the configuration of the network and over what [`Weights::sha256`] reads of its weights.
    pub fn sha256(&self) -> Result<String> {
        let hash = Sha256::new_with_prefix(format!("{:?}", self.network)).chain_update(self.weights.sha256()?);
        Ok(hexadecimal(hash))
    }

    /// A file if there is one of that name, else a preset.
    pub fn file_or_preset(name: &str) -> Result<Model> {
        if Path::new(name).exists() { Model::open(name) } else { Model::preset(name) }
    }
}

/// Compares the weights that a graph reads under `prefix` with the tensors of the files that have to hold them.
pub(crate) fn check_tensors(g: &Graph, prefix: &str, files: &[Checkpoint]) -> Result<()> {
    let of_files = g.tensors().iter().filter(|t| matches!(t.source, Source::Weight));
    let weights: Vec<(&str, Shape)> = of_files.filter_map(|t| Some((t.name.strip_prefix(prefix)?, t.shape))).collect();
    let names: HashSet<&str> = weights.iter().map(|w| w.0).collect();
    let held = |name: &str| files.iter().find(|f| f.tensors.contains_key(name));
    let missing: Vec<&str> = weights.iter().map(|w| w.0).filter(|n| held(n).is_none()).collect();
    let extra: Vec<&str> = (files.iter().flat_map(|f| f.tensors.keys()))
        .map(|n| n.as_str())
        // A table of numbers 0 to 76 that old files of text encoders hold.
        .filter(|n| !n.ends_with("embeddings.position_ids") && !names.contains(n))
        .collect();
    if !missing.is_empty() || !extra.is_empty() {
        let list = |what: &str, names: &[&str]| match names {
            [] => None,
            [first] => Some(format!("1 {what} ({first})")),
            [first, ..] => Some(format!("{} {what} ({first}, ...)", names.len())),
        };
        let parts: Vec<_> = [list("missing", &missing), list("unexpected", &extra)].into_iter().flatten().collect();
        return Err(files[0].error(format!(
            "its tensors are not those of the configured network: {}; give it the configuration (JSON) that belongs to it",
            parts.join(", ")
        )));
    }
    for (name, shape) in weights {
        let Some(file) = held(name) else { continue };
        let found = &file.tensors[name].shape;
        if found.iter().product::<usize>() != shape.numel() {
            let reason = format!("tensor {name} has shape {found:?}, expected (out, height, width, in) = {shape}");
            return Err(file.error(reason));
        }
    }
    Ok(())
}
