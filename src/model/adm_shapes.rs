//! The configuration of an ADM UNet, inferred from the names and shapes of its tensors.

use super::adm_config::AdmConfig;
use super::adm_config::{BLOCKS, CHANNELS, CLASSES, IMAGE_CHANNELS, LEVELS};
use crate::error::Result;
use crate::weights::Checkpoint;

/// The tensors of one file.
struct Tensors<'a>(&'a Checkpoint);

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }

    /// The sizes of a tensor of `N` dimensions; none if the file lacks it.
    fn extents<const N: usize>(&self, name: &str) -> Result<Option<[usize; N]>> {
        let Some(tensor) = self.0.tensors.get(name) else { return Ok(None) };
        let found = &tensor.shape;
        <[usize; N]>::try_from(&found[..])
            .map(Some)
            .map_err(|_| self.0.error(format!("tensor {name} has shape {found:?}, expected {N} extents")))
    }

    /// True if input block `i` starts with a residual block.
    fn is_block(&self, i: usize) -> bool {
        self.has(&format!("input_blocks.{i}.0.in_layers.2.weight"))
    }

    /// True if input block `i` is a strided convolution.
    fn is_strided(&self, i: usize) -> bool {
        self.has(&format!("input_blocks.{i}.0.op.weight"))
    }

    /// True if output block `o` contains a residual block that raises the resolution.
    fn holds_up(&self, o: usize) -> bool {
        (1..3).any(|k| self.has(&format!("output_blocks.{o}.{k}.in_layers.2.weight")))
    }
}

/// The configuration that follows from the shapes. Other settings are as in guided-diffusion's
/// models for 256x256 pixels.
pub(super) fn of_shapes(checkpoint: &Checkpoint) -> Result<AdmConfig> {
    let tensors = Tensors(checkpoint);
    let [_, model_channels] = tensors.extents("time_embed.0.weight")?.unwrap_or_default();
    let [base, in_channels, ..] = tensors.extents::<4>("input_blocks.0.0.weight")?.unwrap_or_default();
    let mut config = AdmConfig { model_channels, in_channels, ..AdmConfig::default() };
    config.channel_mult.clear();
    config.attention_ds.clear();

    // The kind of resolution change, and the number of blocks between two changes.
    let first_gap = (1..).find(|&i| !tensors.is_block(i)).unwrap_or(1);
    let resampled_between = tensors.is_strided(first_gap) || tensors.is_block(first_gap + 1);
    // With residual up blocks the first output block that holds a second residual block ends its
    // level.
    let first_up = (0..first_gap).find(|&o| tensors.holds_up(o));
    config.resblock_updown = !resampled_between && first_up.is_some();
    config.conv_resample = !resampled_between || tensors.is_strided(first_gap);
    config.num_res_blocks = first_up.filter(|_| config.resblock_updown).unwrap_or(first_gap - 1);

    // The channels of every level, and the levels with attention.
    let (mut ds, mut in_level) = (1, 0);
    for i in 1.. {
        if in_level == config.num_res_blocks {
            let is_last = !tensors.is_block(i) && !tensors.is_block(i + 1);
            if is_last || config.channel_mult.len() > *LEVELS.end() {
                break;
            }
            (ds, in_level) = (2 * ds, 0);
            continue;
        }
        let name = format!("input_blocks.{i}.0.in_layers.2.weight");
        let Some([channels, ..]) = tensors.extents::<4>(&name)? else { break };
        if in_level == 0 {
            config.channel_mult.push(channels as f64 / model_channels as f64);
        }
        if tensors.has(&format!("input_blocks.{i}.1.norm.weight")) && !config.attention_ds.contains(&ds) {
            config.attention_ds.push(ds);
        }
        in_level += 1;
    }

    if let Some([rows, _]) = tensors.extents("input_blocks.1.0.emb_layers.1.weight")? {
        config.use_scale_shift_norm = base.checked_mul(2) == Some(rows);
    }
    if let Some([classes, _]) = tensors.extents("label_emb.weight")? {
        (config.class_cond, config.num_classes) = (true, classes);
    }
    let [out, ..] = tensors.extents::<4>("out.2.weight")?.unwrap_or_default();
    config.learn_sigma = in_channels.checked_mul(2) == Some(out);
    check(&config).map_err(|reason| checkpoint.error(format!("the shapes of its tensors tell {reason}")))?;
    Ok(config)
}

fn check(config: &AdmConfig) -> Result<(), String> {
    let counts = [
        ("model_channels", config.model_channels, CHANNELS),
        ("levels", config.channel_mult.len(), LEVELS),
        ("num_res_blocks", config.num_res_blocks, BLOCKS),
        ("in_channels", config.in_channels, IMAGE_CHANNELS),
        ("num_classes", config.num_classes, CLASSES),
    ];
    let channels =
        (0..config.channel_mult.len()).map(|level| ("channels of a level", config.channels(level), CHANNELS));
    for (key, found, range) in counts.into_iter().chain(channels) {
        if !range.contains(&found) {
            return Err(format!("{key} {found}, expected {} to {}", range.start(), range.end()));
        }
    }
    match config.model_channels % 2 {
        0 => Ok(()),
        _ => Err(format!("model_channels {}, expected an even number", config.model_channels)),
    }
}
