//! The configuration of an ADM UNet and where it comes from.

use super::{adm_json, adm_known, adm_shapes, training_schedule};
use crate::error::{Error, Result, shown};
use crate::weights::Checkpoint;
use serde::Serialize;
use std::ops::RangeInclusive;

/// What a configuration may ask for. A linear schedule of 20 steps or fewer has a beta of 1 or more.
pub(super) const STEPS: RangeInclusive<usize> = 21..=100_000;
pub(super) const CHANNELS: RangeInclusive<usize> = 1..=1 << 15;
pub(super) const LEVELS: RangeInclusive<usize> = 1..=12;
pub(super) const BLOCKS: RangeInclusive<usize> = 1..=64;
pub(super) const IMAGE_CHANNELS: RangeInclusive<usize> = 1..=64;
pub(super) const CLASSES: RangeInclusive<usize> = 1..=1 << 20;

/// Options of the guided-diffusion ADM family, under that code's names.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// A configuration out of a file, and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified {
    /// The configuration.
    pub config: AdmConfig,
    /// The known model that has this configuration and the shapes of the file.
    pub recognised: Option<&'static str>,
    /// Says what neither the file, a JSON nor a known model tells.
    pub warning: Option<String>,
}

/// A setting that the shapes of the tensors do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assumption {
    Heads,
    Order,
    Schedule,
    Steps,
    Rescaling,
}

impl Assumption {
    const ALL: [Assumption; 5] = {
        use Assumption::*;
        [Heads, Order, Schedule, Steps, Rescaling]
    };

    /// One sentence about all that is assumed, with the keys that say otherwise in `place`.
    fn sentence(assumed: &[Assumption], c: &AdmConfig, place: &str) -> Option<String> {
        let named = |a: &Assumption| match a {
            Assumption::Heads if c.num_head_channels > 0 => {
                Some(format!("heads (num_head_channels {})", c.num_head_channels))
            }
            Assumption::Heads => Some(format!("heads (num_heads {})", c.num_heads)),
            Assumption::Order => {
                Some(format!("attention order (use_new_attention_order {})", c.use_new_attention_order))
            }
            Assumption::Schedule => Some(format!("noise schedule (noise_schedule {})", c.noise_schedule)),
            Assumption::Steps => Some(format!("its steps (diffusion_steps {})", c.diffusion_steps)),
            // The network sees the same numbers either way where there are 1000 steps.
            Assumption::Rescaling if c.diffusion_steps == 1000 => None,
            Assumption::Rescaling => Some(format!("timesteps (rescale_timesteps {})", c.rescale_timesteps)),
        };
        let named: Vec<String> = assumed.iter().filter_map(named).collect();
        let (last, rest) = named.split_last()?;
        let list = if rest.is_empty() { last.clone() } else { format!("{} and {last}", rest.join(", ")) };
        Some(format!("assumed, not known from the file: {list}; put the right ones into {place}"))
    }
}

impl AdmConfig {
    /// From the metadata, a JSON beside the file, a known model of the same shapes, or the shapes alone, in that order.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        Ok(Self::identify(checkpoint)?.config)
    }

    /// As [`AdmConfig::of_checkpoint`], with what is known about the configuration.
    pub fn identify(checkpoint: &Checkpoint) -> Result<Identified> {
        let shapes = Self::of_shapes(checkpoint)?;
        let known = Self::recognised(&shapes);
        let mut assumed = if known.is_some() { Vec::new() } else { Assumption::ALL.to_vec() };
        let mut config = known.as_ref().map_or(&shapes, |k| &k.0).clone();
        let table = training_schedule::of_tables(checkpoint)?;
        if let Some((name, steps)) = table {
            (config.noise_schedule, config.diffusion_steps) = (name.into(), steps);
            assumed.retain(|a| !matches!(a, Assumption::Schedule | Assumption::Steps));
        }
        let beside = checkpoint.path().with_extension("json");
        let given = match checkpoint.metadata.get("config") {
            Some(text) => Some((text.clone(), "the config of its metadata".to_string())),
            None if beside.is_file() => {
                let text = std::fs::read_to_string(&beside).map_err(Error::io(&beside))?;
                Some((text, shown(&beside)))
            }
            None => None,
        };
        if let Some((text, origin)) = &given {
            adm_json::apply(text, &shapes, &mut config, &mut assumed)
                .map_err(|reason| checkpoint.error(format!("{origin}: {reason}")))?;
        }
        let place = given.map_or_else(|| shown(&beside), |g| g.1);
        let (schedule, steps) = (&config.noise_schedule, config.diffusion_steps);
        if let Some((name, count)) = table.filter(|t| *t != (schedule.as_str(), steps)) {
            return Err(checkpoint.error(format!(
                "{place} says a {schedule} schedule of {steps} steps, but the tables beside the weights are {name} of {count}"
            )));
        }
        config
            .check_groups()
            .map_err(|reason| checkpoint.error(format!("{reason}; {place} can give another value")))?;
        let recognised = known.filter(|k| k.0 == config).map(|k| k.1);
        let warning = Assumption::sentence(&assumed, &config, &place);
        Ok(Identified { config, recognised, warning })
    }

    /// What the shapes of the tensors tell; the rest is as in guided-diffusion's published models.
    fn of_shapes(checkpoint: &Checkpoint) -> Result<AdmConfig> {
        let shape = |name: &str| checkpoint.tensors.get(name).map(|t| t.shape.as_slice());
        let kind = || checkpoint.kind().map_or_else(String::new, |kind| format!("; it is {kind}"));
        let expected = "time_embed.0.weight and input_blocks.0.0.weight are expected";
        let not_adm = || checkpoint.error(format!("not an ADM UNet: {expected}{}", kind()));
        shape("time_embed.0.weight").and(shape("input_blocks.0.0.weight")).ok_or_else(not_adm)?;
        adm_known::refuse_classifier(checkpoint)?;
        let config = adm_shapes::of_shapes(checkpoint)?;
        adm_known::refuse_upsampler(checkpoint, &config)?;
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
        (self.channel_mult[i] * self.model_channels as f64).round() as usize
    }

    /// Heads of an attention over `channels`.
    pub fn heads(&self, channels: usize) -> usize {
        channels.checked_div(self.num_head_channels).unwrap_or(self.num_heads)
    }

    /// The groups of the norms have to divide the channels, which the shapes tell.
    fn check_groups(&self) -> Result<(), String> {
        let groups = self.norm_groups;
        let wrong = (0..self.channel_mult.len()).find(|&i| self.channels(i) % groups != 0);
        wrong.map_or(Ok(()), |i| {
            let c = self.channels(i);
            Err(format!("norm_groups: level {i} has {c} channels, which do not divide into {groups} groups"))
        })
    }

    /// The heads have to divide the channels wherever attention stands: in the middle, and at `attention_ds`.
    pub(super) fn check_heads(&self) -> Result<(), String> {
        let last = self.channel_mult.len() - 1;
        for i in (0..=last).filter(|i| *i == last || self.attention_ds.contains(&(1 << i))) {
            let (c, each) = (self.channels(i), self.num_head_channels);
            if each > 0 && c % each != 0 {
                return Err(format!(
                    "num_head_channels is {each}, which does not divide the {c} channels of an attention"
                ));
            }
            if c % self.heads(c) != 0 {
                return Err(format!(
                    "num_heads: an attention of {c} channels does not divide into {} heads",
                    self.heads(c)
                ));
            }
        }
        Ok(())
    }
}
