//! Latent diffusion: a UNet on the latents of an autoencoder, conditioned on a text embedding.
//! Models are opened from folders in diffusers layout.

use super::config_file::class_name;
use super::control::{ControlConfig, Encoded};
use super::latent_config::{TextConfig, UnetConfig, VaeConfig};
use super::network::{Codec, Conditioning, Latent, Network, Prediction, Prior};
use super::opened::{CONFIGURED, Model, check_tensors};
use super::scheduler_config::SchedulerConfig;
use super::shipped::{TINY_LATENT, file};
use super::tokenizer::tokenize;
use super::{text_encoder, unet, vae};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, TensorId};
use crate::ops::add::Scale;
use crate::tensor::Shape;
use crate::weights::{Checkpoint, Weights, open_part};
use std::path::Path;
use std::sync::Arc;

/// Name of the weight with the text embedding, (1, tokens, cross_attention_dim).
pub const TEXT_EMBEDDING: &str = "prompt_embeds";

/// A latent diffusion model.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentDiffusion {
    /// The UNet.
    pub unet: UnetConfig,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// The training schedule.
    pub scheduler: SchedulerConfig,
    /// Number of tokens of the text embedding.
    pub tokens: usize,
}

impl LatentDiffusion {
    /// Known models, for planning.
    pub const ARCHITECTURES: [(&'static str, &'static str); 2] =
        [("sd2", "Stable Diffusion 2 base"), ("sd1", "Stable Diffusion 1.4 and 1.5")];

    /// A known model.
    pub fn architecture(name: &str) -> Option<LatentDiffusion> {
        let unet = match name {
            "sd2" => UnetConfig::sd2(),
            "sd1" => UnetConfig::sd1(),
            _ => return None,
        };
        Some(LatentDiffusion { unet, vae: VaeConfig::default(), scheduler: SchedulerConfig::default(), tokens: 77 })
    }

    /// The text embedding as a tensor of the graph.
    pub fn context(&self, g: &mut Graph) -> TensorId {
        g.weight(TEXT_EMBEDDING, Shape::new(1, 1, self.tokens, self.unet.cross_attention_dim))
    }
}

impl Network for LatentDiffusion {
    fn prior(&self) -> Prior {
        Prior {
            channels: self.unet.in_channels,
            learn_sigma: false,
            classes: None,
            diffusion_steps: self.scheduler.num_train_timesteps,
            noise_schedule: self.scheduler.noise_schedule,
            rescale_timesteps: false,
            size_multiple: self.vae.factor() * self.unet.size_multiple(),
            prediction: match self.scheduler.prediction_type.as_str() {
                "v_prediction" => Prediction::V,
                _ => Prediction::Epsilon,
            },
            latent: Some(self.latent()),
        }
    }
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, given: &Conditioning) -> Result<TensorId> {
        if given.labels.is_some() {
            return Err(Error::Invalid("this model is not class-conditional: it takes no labels".into()));
        }
        let text = given.text.unwrap_or_else(|| self.context(g));
        unet::unet(g, &self.unet, x, t, text, given.control.as_ref())
    }
    fn record_control(
        &self,
        g: &mut Graph,
        control: &ControlConfig,
        x: TensorId,
        t: TensorId,
        given: &Conditioning,
    ) -> Result<Encoded> {
        let text = given.text.unwrap_or_else(|| self.context(g));
        unet::controlnet(g, (&self.unet, control), x, t, text, given.condition_image()?)
    }
    fn text_shape(&self) -> Option<Shape> {
        Some(Shape::new(1, 1, self.tokens, self.unet.cross_attention_dim))
    }
    fn codec(&self) -> Option<&dyn Codec> {
        Some(self)
    }
    fn unet(&self) -> Option<&UnetConfig> {
        Some(&self.unet)
    }
}

impl Codec for LatentDiffusion {
    fn latent(&self) -> Latent {
        Latent { factor: self.vae.factor(), image_channels: self.vae.out_channels, scaling: self.vae.scaling_factor }
    }
    fn encode(&self, g: &mut Graph, image: TensorId) -> Result<TensorId> {
        vae::encoder(g, &self.vae, image)
    }
    fn decode(&self, g: &mut Graph, x0: TensorId) -> Result<TensorId> {
        let z = g.one(Scale { scale: (1.0 / self.vae.scaling_factor) as f32 }, "vae.unscale", &[x0])?;
        vae::decoder(g, &self.vae, z)
    }
}

/// Opens a folder in diffusers layout. It contains `unet`, `vae` and `scheduler`, and for the text
/// embedding either `prompt_embeds.safetensors` or `text_encoder`. A prompt needs the text encoder
/// and its tokenizer.
pub fn open(folder: &Path, prompt: Option<&str>) -> Result<Model> {
    let part = |name: &str| folder.join(name);
    let missing: Vec<&str> = ["unet", "vae", "scheduler"].into_iter().filter(|p| !part(p).is_dir()).collect();
    let pipeline = class_name(&part("model_index.json"));
    if class_name(&part("config.json")).as_deref() == Some("ControlNetModel") {
        let reason =
            "a ControlNet, which steers another model: give that model with --model, and this folder with --cse";
        return Err(Error::Weights { path: folder.into(), reason: reason.into() });
    }
    if let Some(class) = pipeline.as_ref().filter(|class| OTHERS.iter().any(|other| class.starts_with(other))) {
        let reason = format!("model_index.json says {class}; StableDiffusionPipeline (1.x and 2.x) is supported");
        return Err(Error::Weights { path: folder.into(), reason });
    }
    if !missing.is_empty() {
        let kind = pipeline.map(|class| format!(" ({class} by model_index.json)")).unwrap_or_default();
        let reason = format!("not a model folder in diffusers layout: {} is missing{kind}", missing.join(" and "));
        return Err(Error::Weights { path: folder.into(), reason });
    }
    let unet = UnetConfig::read(&part("unet/config.json"))?;
    let vae = VaeConfig::read(&part("vae/config.json"))?;
    let scheduler = SchedulerConfig::read(&part("scheduler/scheduler_config.json"))?;
    let unet_files = open_part(&part("unet"), "diffusion_pytorch_model")?;
    let vae_files = open_part(&part("vae"), "diffusion_pytorch_model")?;
    let (tokens, embedded) = prompt_embedding(folder, prompt, unet.cross_attention_dim)?;
    let network = LatentDiffusion { unet, vae, scheduler, tokens };
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    assemble(network, folder, unet_files, vae_files, embedded, name)
}

/// Pipelines of diffusers that are refused: their folders have the same parts as Stable Diffusion,
/// but the networks differ.
const OTHERS: [&str; 13] = [
    "AltDiffusion",
    "DDIM",
    "DDPM",
    "Flux",
    "Kandinsky",
    "LDM",
    "LatentConsistency",
    "PixArt",
    "StableDiffusion3",
    "StableDiffusionDepth2Img",
    "StableDiffusionInstructPix2Pix",
    "StableDiffusionUpscale",
    "StableDiffusionXL",
];

/// The latent model inside the program: 5.6 million parameters, trained on photographs
/// (weights/tiny-latent/README.md). Fails in a build without the feature `shipped`.
pub fn shipped() -> Result<Model> {
    let text = |path| Ok::<_, Error>((Path::new(path), String::from_utf8_lossy(file(TINY_LATENT, path)?)));
    let weights = |path| Checkpoint::of_bytes(path, file(TINY_LATENT, path)?);
    let (path, unet) = text("unet/config.json")?;
    let unet = UnetConfig::of_text(path, &unet)?;
    let (path, vae) = text("vae/config.json")?;
    let vae = VaeConfig::of_text(path, &vae)?;
    let (path, scheduler) = text("scheduler/scheduler_config.json")?;
    let scheduler = SchedulerConfig::of_text(path, &scheduler)?;
    let (tokens, embedded) = cached_prompt(&weights("prompt_embeds.safetensors")?, unet.cross_attention_dim)?;
    let network = LatentDiffusion { unet, vae, scheduler, tokens };
    let unet_files = vec![weights("unet/diffusion_pytorch_model.safetensors")?];
    let vae_files = vec![weights("vae/diffusion_pytorch_model.safetensors")?];
    assemble(network, Path::new(TINY_LATENT), unet_files, vae_files, embedded, TINY_LATENT.into())
}

/// A model from its parts. The tensors of each part are checked against its configuration.
fn assemble(
    network: LatentDiffusion,
    folder: &Path,
    unet_files: Vec<Checkpoint>,
    vae_files: Vec<Checkpoint>,
    embedded: Vec<f32>,
    name: String,
) -> Result<Model> {
    let (unet, vae) = (&network.unet, &network.vae);
    if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
        let reason = format!(
            "the UNet maps {} channels to {}, the autoencoder's latent has {}; the further inputs of inpainting, depth and \
             upscaling models are not supported",
            unet.in_channels, unet.out_channels, vae.latent_channels
        );
        return Err(Error::Weights { path: folder.join("unet"), reason });
    }
    check_tensors(&unet_graph(&network)?, "unet.", &unet_files, &CONFIGURED)?;
    check_tensors(&vae_graph(&network)?, "vae.", &vae_files, &CONFIGURED)?;
    let parts = [("unet.", unet_files), ("vae.", vae_files)];
    let parts = parts.into_iter().flat_map(|(name, files)| files.into_iter().map(move |f| (name.to_string(), f)));
    let weights = Weights::of_parts(parts.collect(), [(TEXT_EMBEDDING.to_string(), embedded)]);
    let assumed = network.scheduler.betas_assumed.then(|| {
        let schedule = network.scheduler.noise_schedule;
        format!("scheduler_config.json has no beta_schedule: {schedule}, the default of diffusers, is assumed")
    });
    let warnings: Vec<String> = doubtful_prediction(&network).into_iter().chain(assumed).collect();
    let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    Ok(Model { network: Arc::new(network), weights, name, warning })
}

/// A warning if the scheduler may state the wrong prediction. The 768-pixel models of Stable
/// Diffusion 2 predict v, but copies exist whose scheduler states something else or nothing.
fn doubtful_prediction(network: &LatentDiffusion) -> Option<String> {
    let (unet, scheduler) = (&network.unet, &network.scheduler);
    let is_768 = unet.sample_size == Some(96) && unet.cross_attention_dim == 1024;
    (is_768 && scheduler.prediction_type == "epsilon").then(|| {
        "the UNet is of 96x96 latents, as the models that predict v are, but scheduler_config.json says or implies epsilon; if \
         images turn to noise, set its prediction_type to v_prediction"
            .into()
    })
}

/// The graph of the UNet alone, on its smallest latent.
fn unet_graph(network: &LatentDiffusion) -> Result<Graph> {
    let mut g = Graph::new();
    let m = network.unet.size_multiple();
    let x = g.input("x", Shape::new(1, m, m, network.unet.in_channels));
    let t = g.input("t", Shape::rows(1, 1));
    let context = g.input("context", Shape::new(1, 1, 1, network.unet.cross_attention_dim));
    unet::unet(&mut g, &network.unet, x, t, context, None)?;
    Ok(g)
}

/// The graph of encoder and decoder on their smallest image.
fn vae_graph(network: &LatentDiffusion) -> Result<Graph> {
    let (mut g, c) = (Graph::new(), &network.vae);
    let x = g.input("x", Shape::new(1, c.factor(), c.factor(), 3));
    let z = g.input("z", Shape::new(1, 1, 1, c.latent_channels));
    vae::encoder(&mut g, c, x)?;
    vae::decoder(&mut g, c, z)?;
    Ok(g)
}

/// A text embedding from a file: (tokens, values).
fn cached_prompt(file: &Checkpoint, width: usize) -> Result<(usize, Vec<f32>)> {
    let shape = file.tensors.get(TEXT_EMBEDDING).map(|t| t.shape.clone()).unwrap_or_default();
    let [1, tokens, found] = shape[..] else {
        return Err(
            file.error(format!("tensor {TEXT_EMBEDDING} should have shape (1, tokens, {width}) but has {shape:?}"))
        );
    };
    if found != width || tokens == 0 {
        return Err(file.error(format!("tensor {TEXT_EMBEDDING} has {found} channels, the UNet takes {width}")));
    }
    Ok((tokens, file.values(TEXT_EMBEDDING)?))
}

/// The text embedding of a folder: (tokens, values). Without a prompt it is the cached embedding,
/// else the text encoder embeds the empty text.
fn prompt_embedding(folder: &Path, prompt: Option<&str>, width: usize) -> Result<(usize, Vec<f32>)> {
    let cached = folder.join("prompt_embeds.safetensors");
    if cached.exists() && prompt.is_none() {
        return cached_prompt(&Checkpoint::open(&cached)?, width);
    }
    if !folder.join("text_encoder").is_dir() {
        let reason =
            "neither text_encoder nor prompt_embeds.safetensors is there: one of them has to give the text".into();
        return Err(Error::Weights { path: folder.into(), reason });
    }
    let encoder = TextEncoder::open(folder)?;
    if encoder.config.hidden_size != width {
        let reason = format!("it gives {} channels, the UNet takes {width}", encoder.config.hidden_size);
        return Err(Error::Weights { path: folder.join("text_encoder"), reason });
    }
    let tokens = encoder.tokens(folder, prompt.unwrap_or_default())?;
    Ok((tokens.len(), encoder.embed(&tokens)?))
}

/// The text encoder of a model folder. It runs on the CPU.
pub struct TextEncoder {
    config: TextConfig,
    weights: Weights,
}

impl TextEncoder {
    /// Opens `text_encoder` of the model folder `folder`.
    pub fn open(folder: &Path) -> Result<TextEncoder> {
        let encoder = folder.join("text_encoder");
        let config = TextConfig::read(&encoder.join("config.json"))?;
        let files = open_part(&encoder, "model")?;
        let mut g = Graph::new();
        let input = g.input("tokens", Shape::new(1, 1, 1, 1));
        text_encoder::text_encoder(&mut g, &config, input)?;
        check_tensors(&g, "text_encoder.", &files, &CONFIGURED)?;
        let parts = files.into_iter().map(|f| ("text_encoder.".to_string(), f)).collect();
        Ok(TextEncoder { config, weights: Weights::of_parts(parts, []) })
    }

    /// Channels of a token's embedding.
    pub fn channels(&self) -> usize {
        self.config.hidden_size
    }

    /// Hidden states (tokens, channels) of token numbers.
    pub fn embed(&self, tokens: &[f32]) -> Result<Vec<f32>> {
        let (longest, words) = (self.config.max_position_embeddings, self.config.vocab_size);
        if tokens.is_empty() || tokens.len() > longest {
            return Err(Error::Invalid(format!("{} tokens; the text encoder takes 1 to {longest}", tokens.len())));
        }
        if let Some(t) = tokens.iter().find(|t| t.fract() != 0.0 || !(0.0..words as f32).contains(*t)) {
            return Err(Error::Invalid(format!("token {t}; expected a whole number below {words}")));
        }
        let mut g = Graph::new();
        let input = g.input("tokens", Shape::new(1, 1, tokens.len(), 1));
        let out = text_encoder::text_encoder(&mut g, &self.config, input)?;
        g.output(out);
        let mut e = Executor::new(g, &PlanOptions::default(), &self.weights, &Device::cpu())?;
        e.write(input, tokens)?;
        e.run()?;
        e.read(out)
    }

    /// Token numbers of a text: begin, the words, end, then padding to the full length. A text that
    /// is too long is cut off. Stable Diffusion 2 pads with token 0 ("!"), 1.x with the end token.
    /// The tokenizer's files give the padding token; without them the text encoder's activation
    /// function shows which model it is.
    pub fn tokens(&self, folder: &Path, text: &str) -> Result<Vec<f32>> {
        let config = &self.config;
        let tokenizer = folder.join("tokenizer");
        let (begin, end) = ((config.vocab_size - 2) as f32, (config.vocab_size - 1) as f32);
        let map = std::fs::read_to_string(tokenizer.join("special_tokens_map.json"));
        let map: serde_json::Value = map.ok().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let pad = map["pad_token"].as_str().or(map["pad_token"]["content"].as_str()).map(|p| p == "!");
        let padding = if pad.unwrap_or(config.hidden_act == "gelu") { 0.0 } else { end };
        let words = if text.trim().is_empty() { Vec::new() } else { tokenize(&tokenizer, text)? };
        let longest = config.max_position_embeddings;
        let mut tokens = vec![begin];
        tokens.extend(words.into_iter().take(longest - 2).map(|w| w as f32));
        tokens.push(end);
        tokens.resize(longest, padding);
        Ok(tokens)
    }
}
