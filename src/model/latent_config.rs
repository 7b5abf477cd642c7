//! Configurations of the parts of a latent diffusion model: the `config.json` files of a diffusers
//! folder.

use super::config_file::{TEXT, UNET, VAE, checked, parse, refuse, text};
use crate::error::Result;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// `UNet2DConditionModel` of the Stable Diffusion 1.x and 2.x family.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of every level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the down path. The up path has one more.
    pub layers_per_block: usize,
    /// Attention heads of every level. The file calls them `attention_head_dim`, which counts heads
    /// in these models.
    pub heads: Vec<usize>,
    /// Channels of the text embedding.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Epsilon of the group norms outside the transformers.
    pub norm_eps: f32,
    /// Height and width of the latents in training, if the file gives it.
    pub sample_size: Option<usize>,
    /// Levels with attention: in the down path, and in the up path in the order in which it runs.
    pub attention: [Vec<bool>; 2],
}

/// `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of the decoder's image.
    pub out_channels: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of every level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// The diffusion model works on latents times this factor.
    pub scaling_factor: f64,
    /// True: the middle block has attention.
    pub mid_block_add_attention: bool,
    /// True: a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// True: a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
        }
    }
}

/// `CLIPTextModel`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Length of a text in tokens.
    pub max_position_embeddings: usize,
    /// Channels of a token.
    pub hidden_size: usize,
    /// Hidden channels of a layer's perceptron.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// `gelu` or `quick_gelu`.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 49408,
            max_position_embeddings: 77,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// One number for all levels, or one per level.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerLevel {
    All(usize),
    Each(Vec<usize>),
}

/// The keys of a UNet's file that are read.
#[derive(Deserialize)]
struct UnetFile {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: PerLevel,
    attention_head_dim: PerLevel,
    cross_attention_dim: usize,
    #[serde(default = "thirty_two")]
    norm_num_groups: usize,
    #[serde(default = "small")]
    norm_eps: f32,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
}

fn thirty_two() -> usize {
    32
}

fn small() -> f32 {
    1e-5
}

impl UnetConfig {
    /// Stable Diffusion 2 (base).
    pub fn sd2() -> UnetConfig {
        UnetConfig {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            heads: vec![5, 10, 20, 20],
            cross_attention_dim: 1024,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            sample_size: Some(64),
            attention: [vec![true, true, true, false], vec![false, true, true, true]],
        }
    }

    /// Stable Diffusion 1.4 and 1.5.
    pub fn sd1() -> UnetConfig {
        UnetConfig { heads: vec![8; 4], cross_attention_dim: 768, ..UnetConfig::sd2() }
    }

    /// Reads `unet/config.json`.
    pub fn read(path: &Path) -> Result<UnetConfig> {
        UnetConfig::of_text(path, &text(path)?)
    }

    /// As `read`, from the text of such a file. `path` is for error messages.
    pub fn of_text(path: &Path, text: &str) -> Result<UnetConfig> {
        UnetConfig::of_value(path, checked(path, text, &UNET)?)
    }

    fn of_value(path: &Path, value: Value) -> Result<UnetConfig> {
        let sample_size = value.get("sample_size").and_then(|s| s.as_u64()).map(|s| s as usize);
        let file: UnetFile = parse(path, value)?;
        let levels = file.block_out_channels.len();
        let refuse = |reason: String| Err(refuse(path, reason));
        let per_level = |key: &str, value: PerLevel| match value {
            PerLevel::All(n) => Ok(vec![n; levels]),
            PerLevel::Each(n) if n.len() == levels => Ok(n),
            PerLevel::Each(n) => refuse(format!("{key} has {} values for {levels} levels", n.len())).map(|()| n),
        };
        let layers = per_level("layers_per_block", file.layers_per_block)?;
        let heads = per_level("attention_head_dim", file.attention_head_dim)?;
        if levels == 0 || levels > 8 || layers[0] == 0 || layers[0] > 16 || layers.iter().any(|&n| n != layers[0]) {
            return refuse(format!(
                "{layers:?} layers in {levels} levels; the same number in every level is supported"
            ))
            .map(|()| unreachable!());
        }
        let kinds = |types: &[String], plain: &str, with: &str| -> Result<Vec<bool>> {
            if types.len() != levels {
                refuse(format!("{} block types for {levels} levels", types.len()))?;
            }
            let kind = |t: &String| match t.as_str() {
                t if t == plain => Ok(false),
                t if t == with => Ok(true),
                _ => refuse(format!("block type {t} is not supported; {plain} and {with} are")).map(|()| false),
            };
            types.iter().map(kind).collect()
        };
        let attention = [
            kinds(&file.down_block_types, "DownBlock2D", "CrossAttnDownBlock2D")?,
            kinds(&file.up_block_types, "UpBlock2D", "CrossAttnUpBlock2D")?,
        ];
        for (&c, &h) in file.block_out_channels.iter().zip(&heads) {
            if c == 0
                || c > 1 << 14
                || file.norm_num_groups == 0
                || c % file.norm_num_groups != 0
                || h == 0
                || c % h != 0
            {
                let groups = file.norm_num_groups;
                refuse(format!("a level of {c} channels does not divide into {groups} groups and {h} heads"))?;
            }
        }
        Ok(UnetConfig {
            in_channels: file.in_channels,
            out_channels: file.out_channels,
            block_out_channels: file.block_out_channels,
            layers_per_block: layers[0],
            heads,
            cross_attention_dim: file.cross_attention_dim,
            norm_num_groups: file.norm_num_groups,
            norm_eps: file.norm_eps,
            sample_size,
            attention,
        })
    }

    /// The first difference between this UNet's encoder half and the one that the configuration of a
    /// ControlNet describes, in words. `path` is for error messages.
    pub(super) fn difference_of_encoder(&self, path: &Path, mut value: Value) -> Result<Option<String>> {
        // A ControlNet has no decoder half.
        value["out_channels"] = self.out_channels.into();
        if let Some(levels) = value["block_out_channels"].as_array().map(Vec::len) {
            value["up_block_types"] = vec!["UpBlock2D"; levels].into();
        }
        let other = UnetConfig::of_value(path, value)?;
        let named = |c: &UnetConfig| {
            [
                ("in_channels", format!("{}", c.in_channels)),
                ("block_out_channels", format!("{:?}", c.block_out_channels)),
                ("layers_per_block", format!("{}", c.layers_per_block)),
                ("attention_head_dim", format!("{:?}", c.heads)),
                ("cross_attention_dim", format!("{}", c.cross_attention_dim)),
                ("norm_num_groups", format!("{}", c.norm_num_groups)),
                ("norm_eps", format!("{}", c.norm_eps)),
                ("attention of down_block_types", format!("{:?}", c.attention[0])),
            ]
        };
        let mut pairs = named(&other).into_iter().zip(named(self));
        let differs = pairs.find(|(there, here)| there.1 != here.1);
        Ok(differs.map(|((key, there), (_, here))| format!("its {key} is {there}, the UNet's {here}")))
    }

    /// True if level `i` of the down path has attention.
    pub fn down_attention(&self, i: usize) -> bool {
        self.attention[0][i]
    }

    /// True if block `i` of the up path has attention.
    pub fn up_attention(&self, i: usize) -> bool {
        self.attention[1][i]
    }

    /// Height and width of a latent must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl VaeConfig {
    /// Reads `vae/config.json`.
    pub fn read(path: &Path) -> Result<VaeConfig> {
        VaeConfig::of_text(path, &text(path)?)
    }

    /// As `read`, from the text of such a file. `path` is for error messages.
    pub fn of_text(path: &Path, text: &str) -> Result<VaeConfig> {
        let config: VaeConfig = parse(path, checked(path, text, &VAE)?)?;
        let divides = |c: &usize| c.is_multiple_of(config.norm_num_groups);
        let levels = config.block_out_channels.len();
        if levels == 0 || levels > 8 || !config.block_out_channels.iter().all(divides) {
            return Err(refuse(
                path,
                format!(
                    "levels of {:?} channels do not divide into {} groups",
                    config.block_out_channels, config.norm_num_groups
                ),
            ));
        }
        Ok(config)
    }

    /// Image pixels along one side of a latent pixel.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl TextConfig {
    /// Reads `text_encoder/config.json`.
    pub fn read(path: &Path) -> Result<TextConfig> {
        TextConfig::of_text(path, &text(path)?)
    }

    /// As `read`, from the text of such a file. `path` is for error messages.
    pub fn of_text(path: &Path, text: &str) -> Result<TextConfig> {
        let config: TextConfig = parse(path, checked(path, text, &TEXT)?)?;
        if config.hidden_act != "gelu" && config.hidden_act != "quick_gelu" {
            let reason = format!("hidden_act is {}; gelu and quick_gelu are supported", config.hidden_act);
            return Err(refuse(path, reason));
        }
        if config.hidden_size % config.num_attention_heads != 0 {
            let reason =
                format!("{} channels do not divide into {} heads", config.hidden_size, config.num_attention_heads);
            return Err(refuse(path, reason));
        }
        Ok(config)
    }
}
