//! The configuration of an ADM UNet, and the settings in it that may be assumed.

use super::training_schedule::NoiseSchedule;
use serde::Serialize;
use std::ops::RangeInclusive;

/// Range of the number of training steps. A linear schedule of 20 steps or fewer would have a beta
/// of 1 or more.
pub(super) const STEPS: RangeInclusive<usize> = 21..=100_000;
pub(super) const CHANNELS: RangeInclusive<usize> = 1..=1 << 15;
pub(super) const LEVELS: RangeInclusive<usize> = 1..=12;
pub(super) const BLOCKS: RangeInclusive<usize> = 1..=64;
pub(super) const IMAGE_CHANNELS: RangeInclusive<usize> = 1..=64;
pub(super) const CLASSES: RangeInclusive<usize> = 1..=1 << 20;

/// Options of the guided-diffusion ADM family, under that code's names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdmConfig {
    /// Base number of channels, which the multipliers refer to; also the width of the timestep
    /// embedding.
    pub model_channels: usize,
    /// Channels of each level as a multiple of `model_channels`; 0.5 is allowed.
    pub channel_mult: Vec<f64>,
    /// Residual blocks per level.
    pub num_res_blocks: usize,
    /// Down-sampling factors (1, 2, 4 ...) of the levels with attention.
    pub attention_ds: Vec<usize>,
    /// Channels per attention head; 0 means `num_heads` heads.
    pub num_head_channels: usize,
    /// Attention heads where `num_head_channels` is 0.
    pub num_heads: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// True: the time embedding scales and shifts the output of the second norm. False: it is added
    /// to the norm's input.
    pub use_scale_shift_norm: bool,
    /// True: residual blocks change the resolution. False: it is changed as `conv_resample` says.
    pub resblock_updown: bool,
    /// If `resblock_updown` is false. True: a strided convolution reduces the resolution, and a
    /// convolution after nearest x2 raises it. False: only pooling and repetition do.
    pub conv_resample: bool,
    /// Order of the channels of q, k and v. True: all q, all k, all v. False: q, k and v head by
    /// head.
    pub use_new_attention_order: bool,
    /// The network also predicts the interpolation of the log variance, which doubles its output
    /// channels.
    pub learn_sigma: bool,
    /// The network is conditioned on a class label.
    pub class_cond: bool,
    /// Classes of a conditional model.
    pub num_classes: usize,
    /// Channels of the image.
    pub in_channels: usize,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// The training schedule.
    pub noise_schedule: NoiseSchedule,
    /// True: the network receives `t * 1000 / diffusion_steps` in place of t.
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
            noise_schedule: NoiseSchedule::Linear,
            rescale_timesteps: false,
        }
    }
}

/// A setting that does not follow from the shapes of the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assumption {
    Heads,
    Order,
    Schedule,
    Steps,
    Rescaling,
}

impl Assumption {
    pub(super) const ALL: [Assumption; 5] = {
        use Assumption::*;
        [Heads, Order, Schedule, Steps, Rescaling]
    };

    /// One sentence that lists the assumed settings, with the keys that override them in `place`.
    /// None if nothing is assumed.
    pub(super) fn sentence(assumed: &[Assumption], c: &AdmConfig, place: &str) -> Option<String> {
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
            // With 1000 steps, rescaling changes nothing.
            Assumption::Rescaling if c.diffusion_steps == 1000 => None,
            Assumption::Rescaling => Some(format!("timesteps (rescale_timesteps {})", c.rescale_timesteps)),
        };
        let named: Vec<String> = assumed.iter().filter_map(named).collect();
        let (last, rest) = named.split_last()?;
        let list = if rest.is_empty() { last.clone() } else { format!("{} and {last}", rest.join(", ")) };
        Some(format!("assumed, not known from the file: {list}; put the right ones into {place}"))
    }
}
