//! Configurations of published ADM models, and their recognition by the shapes of the tensors.

use super::adm_config::AdmConfig;
use super::training_schedule::NoiseSchedule;
use crate::error::Result;
use crate::weights::Checkpoint;

impl AdmConfig {
    /// Known models: name and description.
    pub const ARCHITECTURES: [(&'static str, &'static str); 8] = [
        ("adm-64-cond", "64x64_diffusion.pt of guided-diffusion"),
        ("adm-128-cond", "128x128_diffusion.pt of guided-diffusion"),
        ("adm-256", "256x256_diffusion_uncond.pt of guided-diffusion, or its lsun_*.pt"),
        ("adm-256-cond", "256x256_diffusion.pt of guided-diffusion"),
        ("adm-512", "512x512_diffusion_uncond_finetune_008100.pt"),
        ("adm-512-cond", "512x512_diffusion.pt of guided-diffusion"),
        ("ffhq", "ffhq_10m.pt of the DPS authors"),
        ("photo", "the prior that ships with this program"),
    ];

    /// The configuration of a known model.
    pub fn architecture(name: &str) -> Option<AdmConfig> {
        let adm = AdmConfig::default();
        let adm_512 = AdmConfig {
            channel_mult: vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            attention_ds: vec![16, 32, 64],
            ..adm.clone()
        };
        Some(match name {
            "adm-64-cond" => AdmConfig {
                model_channels: 192,
                channel_mult: vec![1.0, 2.0, 3.0, 4.0],
                num_res_blocks: 3,
                attention_ds: vec![2, 4, 8],
                use_new_attention_order: true,
                class_cond: true,
                noise_schedule: NoiseSchedule::Cosine,
                ..adm
            },
            "adm-128-cond" => AdmConfig {
                channel_mult: vec![1.0, 1.0, 2.0, 3.0, 4.0],
                attention_ds: vec![4, 8, 16],
                num_heads: 4,
                num_head_channels: 0,
                class_cond: true,
                ..adm
            },
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

    /// The known model with these shapes: its configuration and description. No two known models
    /// share their shapes.
    pub(super) fn recognised(shapes: &AdmConfig) -> Option<(AdmConfig, &'static str)> {
        AdmConfig::ARCHITECTURES.into_iter().find_map(|(name, what)| {
            let known = AdmConfig::architecture(name)?;
            // These settings do not follow from the shapes.
            let completed = AdmConfig {
                num_heads: known.num_heads,
                num_head_channels: known.num_head_channels,
                norm_groups: known.norm_groups,
                use_new_attention_order: known.use_new_attention_order,
                diffusion_steps: known.diffusion_steps,
                noise_schedule: known.noise_schedule,
                rescale_timesteps: known.rescale_timesteps,
                ..shapes.clone()
            };
            (completed == known).then_some((known, what))
        })
    }
}

/// Fails for a classifier of guided-diffusion, which ends in an attention pool. The number of its
/// blocks shows its image size.
pub(super) fn refuse_classifier(checkpoint: &Checkpoint) -> Result<()> {
    if !checkpoint.tensors.contains_key("out.2.positional_embedding") {
        return Ok(());
    }
    let has = |i: usize| checkpoint.tensors.contains_key(&format!("input_blocks.{i}.0.in_layers.0.weight"));
    let name = match (1..).take_while(|&i| has(i)).count() {
        19 => "64x64_classifier.pt",
        14 => "128x128_classifier.pt",
        17 => "256x256_classifier.pt",
        20 => "512x512_classifier.pt",
        _ => "the kind of 256x256_classifier.pt",
    };
    Err(checkpoint.error(format!(
        "a classifier ({name} of guided-diffusion): it names what an image shows and can't restore one; give the \
         diffusion model that belongs to it"
    )))
}

/// Fails for an upsampler of guided-diffusion, which takes a second image as input.
pub(super) fn refuse_upsampler(checkpoint: &Checkpoint, shapes: &AdmConfig) -> Result<()> {
    if shapes.in_channels != 6 {
        return Ok(());
    }
    let is_192 = shapes.model_channels == 192 && shapes.channel_mult == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0];
    let name = match &shapes.attention_ds[..] {
        [8, 16, 32] if is_192 => "64_256_upsampler.pt",
        [16, 32] if is_192 => "128_512_upsampler.pt",
        _ => "the kind of 64_256_upsampler.pt",
    };
    Err(checkpoint.error(format!(
        "an upsampler ({name} of guided-diffusion): it takes a low-resolution image as a second input; give a \
         diffusion model of 3 channels and the task sr4"
    )))
}
