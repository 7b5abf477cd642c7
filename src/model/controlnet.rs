//! A model with a ControlNet: the conditional score estimator of Xu et al. 2025, which adds to the
//! skip connections of a frozen UNet what it reads from the measurement.

use super::config_file::{CONTROLNET, checked, parse, refuse, text};
use super::control::{CONTROL, ControlConfig};
use super::latent_config::UnetConfig;
use super::network::{Codec, Condition, Conditioning, Network, Prior};
use super::opened::{Expected, Model, check_tensors};
use super::shipped::ESTIMATORS;
use crate::error::{Error, Result, shown};
use crate::graph::{Graph, TensorId};
use crate::tensor::Shape;
use crate::weights::{Checkpoint, open_part};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Key of the metadata of a weight file under which [`ControlOrigin`] stands, as JSON.
pub const ORIGIN: &str = "dmap_cse";

/// Name of the file of a pixel model's estimator in the folder of a training.
pub const PIXEL_FILE: &str = "cse.safetensors";

/// Number of levels of the condition's embedding.
const LEVELS: RangeInclusive<usize> = 1..=8;

/// What a conditional score estimator was trained for, as its file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlOrigin {
    /// The task with its options.
    pub task: String,
    /// Noise of the measurements in training, such as `0.025`.
    pub noise: String,
    /// Name of the model.
    pub model: String,
    /// [`Weights::files_sha256`](crate::weights::Weights::files_sha256) of the model.
    pub model_sha256: String,
    /// Number of photos that it was trained on.
    pub shots: usize,
    /// Number of optimiser steps.
    pub steps: usize,
}

/// A network and the ControlNet that steers it.
#[derive(Debug)]
struct Controlled {
    base: Arc<dyn Network>,
    control: ControlConfig,
    task: Option<String>,
}

impl Network for Controlled {
    fn prior(&self) -> Prior {
        self.base.prior()
    }
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, given: &Conditioning) -> Result<TensorId> {
        let control = match given.condition {
            Some(_) => Some(self.base.record_control(g, &self.control, x, t, given)?),
            None => None,
        };
        self.base.record(g, x, t, &Conditioning { condition: None, control, ..given.clone() })
    }
    fn condition(&self) -> Option<Condition> {
        Some(Condition { channels: self.control.condition_channels, task: self.task.clone() })
    }
    fn text_shape(&self) -> Option<Shape> {
        self.base.text_shape()
    }
    fn codec(&self) -> Option<&dyn Codec> {
        self.base.codec()
    }
}

/// `base` steered by a ControlNet. `task` is the one that it was trained for.
pub fn controlled(base: &Arc<dyn Network>, control: &ControlConfig, task: Option<String>) -> Arc<dyn Network> {
    Arc::new(Controlled { base: base.clone(), control: control.clone(), task })
}

/// The keys of a pixel model's ControlNet, in the metadata of its file.
#[derive(Serialize, Deserialize)]
pub struct PixelControl {
    /// Channels of the condition image.
    pub conditioning_channels: usize,
    /// Channels of the levels of its embedding.
    pub conditioning_embedding_out_channels: Vec<usize>,
}

/// The keys of a ControlNet's `config.json` that are read.
#[derive(Deserialize)]
struct ControlFile {
    #[serde(default = "three")]
    conditioning_channels: usize,
    #[serde(default = "usual_embedding")]
    conditioning_embedding_out_channels: Vec<usize>,
}

fn three() -> usize {
    3
}

fn usual_embedding() -> Vec<usize> {
    vec![16, 32, 96, 256]
}

impl Model {
    /// This model steered by an untrained ControlNet of the usual shape, for planning.
    pub fn with_usual_control(self) -> Result<Model> {
        let control = ControlConfig::usual(&self.network.prior());
        control_graph(self.network.as_ref(), &control)?;
        let name = format!("{} with CSE", self.name);
        Ok(Model { network: controlled(&self.network, &control, None), name, ..self })
    }

    /// This model steered by the conditional score estimator at `path`: a folder of a
    /// `ControlNetModel` in diffusers layout for a latent model, a file that `dmap train-cse` wrote
    /// for a pixel model. What the ControlNet adds is multiplied with `scale`. Fails if it belongs
    /// to another model.
    pub fn with_control(self, path: &Path, scale: f64) -> Result<Model> {
        let control = open_control(path, self.network.as_ref(), &self.name)?;
        self.steered(path, control, scale)
    }

    /// This model steered by the conditional score estimator inside the program for `task`, as
    /// [`Operator::task`](crate::operator::Operator::task) writes it. Fails if there is none, or if
    /// this model is not `photo`.
    pub fn with_shipped_control(self, task: &str, scale: f64) -> Result<Model> {
        let mut tasks = Vec::new();
        for (path, bytes) in ESTIMATORS {
            let file = Checkpoint::of_bytes(path, bytes)?;
            let control = (config_of_file(&file)?, vec![file]);
            match origin_of(&control.1)? {
                Some(origin) if origin.task == task => return self.steered(Path::new(path), control, scale),
                origin => tasks.extend(origin.map(|o| o.task)),
            }
        }
        let there = match tasks[..] {
            [] => "this build has no estimators: it was made without the feature `shipped`".to_string(),
            _ => format!("the estimators inside the program are for {}, not for {task}", tasks.join(" and ")),
        };
        Err(Error::Invalid(format!("{there}; train one with dmap train-cse")))
    }

    fn steered(self, path: &Path, (config, files): (ControlConfig, Vec<Checkpoint>), scale: f64) -> Result<Model> {
        if !scale.is_finite() {
            return Err(Error::Invalid(format!(
                "the scale of a ControlNet is {scale}, expected a number; 1 is the scale of its training"
            )));
        }
        let (name, origin) = (&self.name, origin_of(&files)?);
        if let Some(origin) = &origin
            && origin.model_sha256 != self.weights.files_sha256()?
        {
            return Err(files[0].error(format!(
                "it was trained for the model {}, which has other weights than {name}; give that model with --model",
                origin.model
            )));
        }
        let control = ControlConfig { scale, ..config };
        let unknown = origin.is_none().then(|| {
            // Training scripts for diffusers' layout mostly use other images.
            let is_folder = self.network.prior().latent.is_some();
            let range = if is_folder { "; it is shown images in [-1, 1], not in [0, 1] as by diffusers" } else { "" };
            format!("{} does not say for which task it was trained{range}", shown(path))
        });
        let warnings: Vec<String> = self.warning.into_iter().chain(unknown).collect();
        let own = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let task = origin.map(|o| o.task);
        Ok(Model {
            name: format!("{name} with {own}"),
            network: controlled(&self.network, &control, task),
            weights: self.weights.with_part(&format!("{CONTROL}."), files),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        })
    }
}

impl ControlConfig {
    /// The usual settings for a network: diffusers' for latent models; for pixel models an embedding
    /// in full resolution with few channels.
    pub fn usual(prior: &Prior) -> ControlConfig {
        let (embedding, factor) = match prior.latent {
            // A level for every halving of the image.
            Some(latent) => {
                let levels = latent.factor.ilog2() as usize + 1;
                let usual = usual_embedding();
                ((0..levels).map(|k| usual[k.min(usual.len() - 1)]).collect(), latent.factor)
            }
            None => (vec![16, 32], 1),
        };
        ControlConfig { condition_channels: prior.image_channels(), embedding_channels: embedding, factor, scale: 1.0 }
    }
}

/// Settings and weights of the ControlNet at `path` for a network, whose model is called `model`.
/// Fails if it belongs to another kind of network.
pub(crate) fn open_control(
    path: &Path,
    network: &dyn Network,
    model: &str,
) -> Result<(ControlConfig, Vec<Checkpoint>)> {
    let is_folder = path.metadata().map_err(Error::io(path))?.is_dir();
    let refuse = |reason: String| Err(Error::Weights { path: path.into(), reason });
    let (config, files) = match (network.prior().latent, is_folder) {
        (Some(latent), true) => read_folder(path, network.unet(), latent.factor)?,
        (None, false) => read_file(path)?,
        (None, true) if path.join(PIXEL_FILE).is_file() => read_file(&path.join(PIXEL_FILE))?,
        (Some(_), false) => {
            return refuse(format!(
                "a file, but {model} is a latent model, whose ControlNet is a folder in diffusers layout: give the folder \
                 with config.json and the weights"
            ));
        }
        (None, true) => {
            return refuse(format!(
                "a folder without {PIXEL_FILE}, but {model} is a pixel model: give the folder or the file that `dmap \
                 train-cse` wrote, or a latent model"
            ));
        }
    };
    let network_name = format!("a ControlNet of {model}");
    let expected = Expected { network: &network_name, advice: "give the model that it was trained for with --model" };
    check_tensors(&control_graph(network, &config)?, &format!("{CONTROL}."), &files, &expected)?;
    Ok((config, files))
}

/// The ControlNet alone, on its smallest image.
fn control_graph(network: &dyn Network, control: &ControlConfig) -> Result<Graph> {
    let (mut g, prior) = (Graph::new(), network.prior());
    let side = prior.size_multiple;
    let x = g.input("x", prior.canvas(Shape::new(1, side, side, prior.channels)));
    let t = g.input("t", Shape::rows(1, 1));
    let labels = prior.classes.map(|_| g.input("labels", Shape::rows(1, 1)));
    let condition = g.input("condition", Shape::new(1, side, side, control.condition_channels));
    network.record_control(&mut g, control, x, t, &Conditioning::default().labels(labels).condition(condition))?;
    Ok(g)
}

/// Settings and weights of a ControlNet in diffusers layout for `unet`.
fn read_folder(folder: &Path, unet: Option<&UnetConfig>, factor: usize) -> Result<(ControlConfig, Vec<Checkpoint>)> {
    let (path, value, config) = config_of_folder(folder)?;
    let Some(unet) = unet else { return Err(refuse(&path, "no ControlNet is defined for this network".into())) };
    if let Some(difference) = unet.difference_of_encoder(&path, value)? {
        return Err(refuse(
            &path,
            format!("{difference}: a ControlNet is a copy of the UNet's encoder half; give the one of this model"),
        ));
    }
    if config.factor != factor {
        let (levels, own) = (&config.embedding_channels, config.factor);
        let reason = format!(
            "conditioning_embedding_out_channels {levels:?} makes images {own} times smaller, the model's latents are {factor} \
             times smaller"
        );
        return Err(refuse(&path, reason));
    }
    Ok((config, open_part(folder, "diffusion_pytorch_model")?))
}

/// The settings that the folder of a ControlNet in diffusers layout gives, and the path and the
/// content of its configuration.
pub(super) fn config_of_folder(folder: &Path) -> Result<(PathBuf, Value, ControlConfig)> {
    let path = folder.join("config.json");
    if !path.exists() {
        let reason = "no ControlNet: config.json is missing; give the folder that has it beside the weights";
        return Err(refuse(folder, reason.into()));
    }
    let value = checked(&path, &text(&path)?, &CONTROLNET)?;
    let file: ControlFile = parse(&path, value.clone())?;
    let levels = file.conditioning_embedding_out_channels.len();
    if !LEVELS.contains(&levels) {
        let (least, most) = (LEVELS.start(), LEVELS.end());
        let reason = format!("conditioning_embedding_out_channels has {levels} values, expected {least} to {most}");
        return Err(refuse(&path, reason));
    }
    let config = ControlConfig {
        condition_channels: file.conditioning_channels,
        embedding_channels: file.conditioning_embedding_out_channels,
        factor: 1 << (levels - 1),
        scale: 1.0,
    };
    Ok((path, value, config))
}

/// Settings and weights of a pixel model's ControlNet.
fn read_file(path: &Path) -> Result<(ControlConfig, Vec<Checkpoint>)> {
    let file = Checkpoint::open(path)?;
    let config = config_of_file(&file)?;
    Ok((config, vec![file]))
}

/// The settings that the file of a pixel model's ControlNet gives.
pub(super) fn config_of_file(file: &Checkpoint) -> Result<ControlConfig> {
    let advice = "give the file that `dmap train-cse` wrote";
    let Some(text) = file.metadata.get("config") else {
        return Err(file
            .error(format!("no conditional score estimator of a pixel model: its metadata has no config; {advice}")));
    };
    let known = |c: &PixelControl| {
        let channels = |c: &usize| (1..=1 << 14).contains(c);
        channels(&c.conditioning_channels)
            && LEVELS.contains(&c.conditioning_embedding_out_channels.len())
            && c.conditioning_embedding_out_channels.iter().all(channels)
    };
    let config = serde_json::from_str::<PixelControl>(text).ok().filter(known);
    let Some(config) = config else {
        return Err(file.error(format!(
            "no conditional score estimator of a pixel model: the config in its metadata lacks a usable \
             conditioning_channels or conditioning_embedding_out_channels; {advice}"
        )));
    };
    Ok(ControlConfig {
        condition_channels: config.conditioning_channels,
        embedding_channels: config.conditioning_embedding_out_channels,
        factor: 1,
        scale: 1.0,
    })
}

/// What the files of a ControlNet say of its training, if they say it.
pub(super) fn origin_of(files: &[Checkpoint]) -> Result<Option<ControlOrigin>> {
    let given = files.iter().find_map(|file| Some((file, file.metadata.get(ORIGIN)?)));
    let Some((file, text)) = given else { return Ok(None) };
    serde_json::from_str(text)
        .map(Some)
        .map_err(|e| file.error(format!("{ORIGIN} in its metadata can't be read: {e}; train it again")))
}
