//! Writes a ControlNet as the files that [`Model::with_control`](super::Model::with_control) reads.

use super::control::ControlConfig;
use super::controlnet::{ControlOrigin, ORIGIN, PIXEL_FILE, PixelControl};
use super::latent_config::UnetConfig;
use crate::error::{Error, Result};
use crate::image::write_whole;
use crate::weights::{write_safetensors_f16, write_safetensors_with};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A tensor of the file: its name, its extents, and its values in the file's order.
pub type FileTensor = (String, Vec<usize>, Vec<f32>);

/// Writes the ControlNet into `folder`: in diffusers layout if its UNet is of a latent model, else as
/// one file; with `half` in f16. Gives the path for `--cse`. Each file appears whole.
pub fn write_control(
    folder: &Path,
    control: &ControlConfig,
    unet: Option<&UnetConfig>,
    tensors: &[FileTensor],
    origin: &ControlOrigin,
    half: bool,
) -> Result<PathBuf> {
    let write = if half { write_safetensors_f16 } else { write_safetensors_with };
    let text = |value: serde_json::Result<String>| value.map_err(|e| Error::Invalid(e.to_string()));
    let origin = text(serde_json::to_string(origin))?;
    let views: Vec<(&str, Vec<usize>, &[f32])> =
        tensors.iter().map(|(name, shape, values)| (&name[..], shape.clone(), &values[..])).collect();
    let Some(unet) = unet else {
        let config = PixelControl {
            conditioning_channels: control.condition_channels,
            conditioning_embedding_out_channels: control.embedding_channels.clone(),
        };
        let metadata =
            [("format", "pt".to_string()), ("config", text(serde_json::to_string(&config))?), (ORIGIN, origin)];
        let path = folder.join(PIXEL_FILE);
        write(&path, &views, &metadata)?;
        return Ok(path);
    };
    // Projections of a transformer are linear layers, or 1x1 convolutions with four extents.
    let is_linear = tensors.iter().any(|(name, shape, _)| name.ends_with("proj_in.weight") && shape.len() == 2);
    let kind = |attention: &bool| if *attention { "CrossAttnDownBlock2D" } else { "DownBlock2D" };
    let config = json!({
        "_class_name": "ControlNetModel",
        "act_fn": "silu",
        "attention_head_dim": unet.heads,
        "block_out_channels": unet.block_out_channels,
        "conditioning_channels": control.condition_channels,
        "conditioning_embedding_out_channels": control.embedding_channels,
        "controlnet_conditioning_channel_order": "rgb",
        "cross_attention_dim": unet.cross_attention_dim,
        "down_block_types": unet.attention[0].iter().map(kind).collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "global_pool_conditions": false,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": unet.norm_eps,
        "norm_num_groups": unet.norm_num_groups,
        "only_cross_attention": false,
        "resnet_time_scale_shift": "default",
        "use_linear_projection": is_linear,
    });
    let metadata = [("format", "pt".to_string()), (ORIGIN, origin)];
    write(&folder.join("diffusion_pytorch_model.safetensors"), &views, &metadata)?;
    let config = text(serde_json::to_string_pretty(&config))? + "\n";
    write_whole(&folder.join("config.json"), config.as_bytes())?;
    Ok(folder.to_path_buf())
}
