//! The configuration of an ADM UNet and where it comes from.

use crate::error::{Error, Result};
use crate::weights::Checkpoint;
use serde::{Deserialize, Serialize};

/// Options of the guided-diffusion ADM family, under that code's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmConfig {
    /// Channels that the multipliers refer to; also the width of the timestep embedding.
    pub model_channels: usize,
    /// Channels of each level over `model_channels`; 0.5 is allowed.
    pub channel_mult: Vec<f64>,
    /// Residual blocks per level.
    pub num_res_blocks: usize,
    /// Down-sampling factors at which attention stands.
    pub attention_ds: Vec<usize>,
    /// Channels per attention head; 0: `num_heads` heads.
    pub num_head_channels: usize,
    /// Attention heads where `num_head_channels` is 0.
    pub num_heads: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// The time embedding scales and shifts after the second norm; else it is added before it.
    pub use_scale_shift_norm: bool,
    /// Residual blocks change the resolution; else a strided convolution and a convolution after nearest x2 do.
    pub resblock_updown: bool,
    /// Where resolution is not changed by residual blocks: by convolutions (true) or by pooling and repetition alone.
    pub conv_resample: bool,
    /// All q, all k, all v; else head by head.
    pub use_new_attention_order: bool,
    /// The network also predicts the interpolation of the log variance: twice the channels.
    pub learn_sigma: bool,
    /// The network is conditioned on a class label.
    pub class_cond: bool,
    /// Classes of a conditional model.
    pub num_classes: usize,
    /// Channels of the image.
    pub in_channels: usize,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// `linear`, `cosine` or `scaled_linear`.
    pub noise_schedule: String,
    /// The network sees `t * 1000 / diffusion_steps`.
    pub rescale_timesteps: bool,
}

impl Default for AdmConfig {
    fn default() -> Self {
        AdmConfig {
            model_channels: 256,
            channel_mult: vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            num_res_blocks: 2,
            attention_ds: vec![8, 16, 32],
            num_head_channels: 64,
            num_heads: 4,
            norm_groups: 32,
            use_scale_shift_norm: true,
            resblock_updown: true,
            conv_resample: true,
            use_new_attention_order: false,
            learn_sigma: true,
            class_cond: false,
            num_classes: 1000,
            in_channels: 3,
            diffusion_steps: 1000,
            noise_schedule: "linear".into(),
            rescale_timesteps: false,
        }
    }
}

impl AdmConfig {
    /// Known models: name and what it is.
    pub const PRESETS: [(&'static str, &'static str); 6] = [
        ("adm-256", "256x256_diffusion_uncond.pt of guided-diffusion"),
        ("adm-256-cond", "256x256_diffusion.pt of guided-diffusion"),
        ("adm-512", "512x512_diffusion_uncond_finetune_008100.pt"),
        ("adm-512-cond", "512x512_diffusion.pt of guided-diffusion"),
        ("ffhq", "ffhq_10m.pt of the DPS authors"),
        ("photo", "the prior that ships with this program"),
    ];

    /// The configuration of a known model.
    pub fn preset(name: &str) -> Option<AdmConfig> {
        let adm = AdmConfig::default();
        let adm_512 = AdmConfig {
            channel_mult: vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            attention_ds: vec![16, 32, 64],
            ..adm.clone()
        };
        Some(match name {
            "adm-256" => adm,
            "adm-256-cond" => AdmConfig { class_cond: true, ..adm },
            "adm-512" => AdmConfig { rescale_timesteps: true, ..adm_512 },
            "adm-512-cond" => AdmConfig { class_cond: true, ..adm_512 },
            "ffhq" => AdmConfig { model_channels: 128, num_res_blocks: 1, attention_ds: vec![16], ..adm },
            "photo" => AdmConfig {
                model_channels: 32,
                channel_mult: vec![1.0, 2.0, 3.0, 4.0],
                num_res_blocks: 1,
                attention_ds: vec![8],
                num_head_channels: 32,
                norm_groups: 16,
                use_new_attention_order: true,
                learn_sigma: false,
                ..adm
            },
            _ => return None,
        })
    }

    /// From the metadata, a JSON beside the file, or the tensor shapes, in that order.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        let guess = Self::of_shapes(checkpoint)?;
        let beside = checkpoint.path().with_extension("json");
        let (text, origin) = match checkpoint.metadata.get("config") {
            Some(text) => (text.clone(), "its metadata".to_string()),
            None if beside.exists() => {
                let text = std::fs::read_to_string(&beside).map_err(Error::io(&beside))?;
                (text, beside.display().to_string())
            }
            None => {
                guess.check().map_err(|reason| checkpoint.error(reason))?;
                return Ok(guess);
            }
        };
        // What the text leaves out stays as the shapes tell.
        let mut merged = serde_json::to_value(&guess).unwrap_or_default();
        let given: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| checkpoint.error(format!("{origin} is not JSON: {e}")))?;
        let (Some(merged_map), Some(given)) = (merged.as_object_mut(), given.as_object()) else {
            return Err(checkpoint.error(format!("{origin} is not a JSON object")));
        };
        if let Some(kind) = given.get("predicts").and_then(|v| v.as_str()).filter(|&k| k != "epsilon") {
            return Err(checkpoint.error(format!("it predicts {kind}; only epsilon prediction is supported")));
        }
        for (key, value) in given {
            merged_map.insert(key.clone(), value.clone());
        }
        let config: AdmConfig =
            serde_json::from_value(merged).map_err(|e| checkpoint.error(format!("{origin} has a wrong value: {e}")))?;
        config.check().map_err(|reason| checkpoint.error(reason))?;
        Ok(config)
    }

    /// What the shapes of the tensors tell; the rest is as in guided-diffusion's published models.
    fn of_shapes(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        let shape = |name: &str| checkpoint.tensors.get(name).map(|t| t.shape.as_slice());
        let kind = || checkpoint.kind().map_or_else(String::new, |kind| format!("; it is {kind}"));
        let expected = "time_embed.0.weight and input_blocks.0.0.weight are expected";
        let not_adm = || checkpoint.error(format!("not an ADM UNet: {expected}{}", kind()));
        let model_channels = *shape("time_embed.0.weight").and_then(|s| s.get(1)).ok_or_else(not_adm)?;
        let first = shape("input_blocks.0.0.weight").filter(|s| s.len() == 4).ok_or_else(not_adm)?;
        let (base, in_channels) = (first[0], first[1]);
        let mut config = AdmConfig { model_channels, in_channels, ..AdmConfig::default() };
        config.channel_mult.clear();
        config.attention_ds.clear();
        let has = |name: String| checkpoint.tensors.contains_key(&name);
        let is_block = |i: usize| has(format!("input_blocks.{i}.0.in_layers.2.weight"));
        let first_gap = (1..).find(|&i| !is_block(i)).unwrap_or(1);
        let resampled_between = has(format!("input_blocks.{first_gap}.0.op.weight")) || is_block(first_gap + 1);
        // With residual up blocks the first output block that holds a second residual block ends its level.
        let holds_up = |o: usize| (1..3).any(|k| has(format!("output_blocks.{o}.{k}.in_layers.2.weight")));
        let first_up = (0..first_gap).find(|&o| holds_up(o));
        config.resblock_updown = !resampled_between && first_up.is_some();
        config.conv_resample = !resampled_between || has(format!("input_blocks.{first_gap}.0.op.weight"));
        config.num_res_blocks = first_up.filter(|_| config.resblock_updown).unwrap_or(first_gap - 1);
        let (mut ds, mut in_level) = (1, 0);
        for i in 1.. {
            if in_level == config.num_res_blocks {
                if !is_block(i) && !is_block(i + 1) {
                    break;
                }
                (ds, in_level) = (2 * ds, 0);
                continue;
            }
            let Some(conv) = shape(&format!("input_blocks.{i}.0.in_layers.2.weight")) else { break };
            if in_level == 0 {
                config.channel_mult.push(conv[0] as f64 / model_channels as f64);
            }
            if has(format!("input_blocks.{i}.1.norm.weight")) && !config.attention_ds.contains(&ds) {
                config.attention_ds.push(ds);
            }
            in_level += 1;
        }
        if let Some(s) = shape("input_blocks.1.0.emb_layers.1.weight") {
            config.use_scale_shift_norm = s[0] == 2 * base;
        }
        if let Some(s) = shape("label_emb.weight") {
            (config.class_cond, config.num_classes) = (true, s[0]);
        }
        config.learn_sigma = shape("out.2.weight").is_some_and(|s| s[0] == 2 * in_channels);
        Ok(config)
    }

    /// Channels of the network's output: eps, then the variance's interpolation if learned.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.learn_sigma { 2 } else { 1 }
    }

    /// Height and width must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// Channels of level `i`.
    pub fn channels(&self, i: usize) -> usize {
        (self.channel_mult[i] * self.model_channels as f64) as usize
    }

    /// Heads of an attention over `channels`.
    pub fn heads(&self, channels: usize) -> usize {
        channels.checked_div(self.num_head_channels).unwrap_or(self.num_heads)
    }

    fn check(&self) -> Result<(), String> {
        let levels = self.channel_mult.len();
        if levels == 0 || levels > 12 || self.num_res_blocks == 0 || self.num_res_blocks > 64 {
            return Err(format!("{levels} levels of {} blocks can't be an ADM UNet", self.num_res_blocks));
        }
        if self.model_channels == 0 || self.model_channels % 2 != 0 || self.model_channels > 1 << 14 {
            return Err(format!("model_channels is {}, expected an even number", self.model_channels));
        }
        if self.norm_groups == 0 || self.diffusion_steps == 0 || !(1..=64).contains(&self.in_channels) {
            return Err("norm_groups, diffusion_steps and in_channels must be positive".into());
        }
        for i in 0..levels {
            let c = self.channels(i);
            if c == 0 || c % self.norm_groups != 0 {
                return Err(format!(
                    "level {i} has {c} channels, which do not divide into {} groups",
                    self.norm_groups
                ));
            }
        }
        Ok(())
    }
}
