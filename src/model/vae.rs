//! The autoencoder of latent diffusion (`AutoencoderKL`), encoder and decoder, in the order in
//! which they run.

use super::latent_config::VaeConfig;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::attention::CrossAttention;
use crate::ops::conv::{Conv, ConvExtra, Padding};
use crate::ops::group_norm::{GroupNormExtra, GroupNormOptions};

const EPS: f32 = 1e-6;

/// Records the decoder: the image (n, f h, f w, 3) of a latent (n, h, w, latent_channels) that is
/// not scaled.
pub fn decoder(g: &mut Graph, c: &VaeConfig, z: TensorId) -> Result<TensorId> {
    let levels = c.block_out_channels.len();
    let channels = c.block_out_channels[levels - 1];
    let mut h = z;
    if c.use_post_quant_conv {
        h = g.conv("vae.post_quant_conv", h, (1, 1), c.latent_channels, None)?;
    }
    h = g.conv("vae.decoder.conv_in", h, (3, 1), channels, None)?;
    h = middle(g, c, "vae.decoder.mid_block", h)?;
    for (i, level) in (0..levels).rev().enumerate() {
        let name = format!("vae.decoder.up_blocks.{i}");
        for j in 0..=c.layers_per_block {
            h = res_block(g, c, &format!("{name}.resnets.{j}"), h, c.block_out_channels[level])?;
        }
        if level > 0 {
            let name = format!("{name}.upsamplers.0");
            let doubling = Conv { doubled: true, ..Conv::new(3, 1) };
            h = g.conv_as(doubling, &format!("{name}.conv"), h, c.block_out_channels[level], ConvExtra::NONE)?;
        }
    }
    let h = g.group_norm("vae.decoder.conv_norm_out", h, norm(c, true), GroupNormExtra::NONE)?;
    g.conv_as(Conv::LAST, "vae.decoder.conv_out", h, c.out_channels, ConvExtra::NONE)
}

/// Records the encoder: mean and log variance of the latent of an image (n, f h, f w, 3) in [-1,
/// 1], as (n, h, w, 2 latent_channels), not scaled.
pub fn encoder(g: &mut Graph, c: &VaeConfig, x: TensorId) -> Result<TensorId> {
    let (size, factor) = (g.shape(x), c.factor());
    if size.h % factor != 0 || size.w % factor != 0 {
        let reason = format!("an image of {}x{} pixels; this encoder takes multiples of {factor}", size.w, size.h);
        return Err(Error::Invalid(reason));
    }
    let levels = c.block_out_channels.len();
    let halve = Conv { padding: Padding::After, ..Conv::new(3, 2) };
    let mut h = g.conv("vae.encoder.conv_in", x, (3, 1), c.block_out_channels[0], None)?;
    for level in 0..levels {
        let name = format!("vae.encoder.down_blocks.{level}");
        for j in 0..c.layers_per_block {
            h = res_block(g, c, &format!("{name}.resnets.{j}"), h, c.block_out_channels[level])?;
        }
        if level + 1 < levels {
            let name = format!("{name}.downsamplers.0.conv");
            h = g.conv_as(halve.clone(), &name, h, c.block_out_channels[level], ConvExtra::NONE)?;
        }
    }
    h = middle(g, c, "vae.encoder.mid_block", h)?;
    h = g.group_norm("vae.encoder.conv_norm_out", h, norm(c, true), GroupNormExtra::NONE)?;
    let channels = 2 * c.latent_channels;
    if !c.use_quant_conv {
        return g.conv_as(Conv::LAST, "vae.encoder.conv_out", h, channels, ConvExtra::NONE);
    }
    h = g.conv("vae.encoder.conv_out", h, (3, 1), channels, None)?;
    g.conv_as(Conv { kernel: 1, ..Conv::LAST }, "vae.quant_conv", h, channels, ConvExtra::NONE)
}

fn norm(c: &VaeConfig, silu: bool) -> GroupNormOptions {
    GroupNormOptions::new(c.norm_num_groups, EPS, silu)
}

fn middle(g: &mut Graph, c: &VaeConfig, name: &str, x: TensorId) -> Result<TensorId> {
    let channels = g.shape(x).c;
    let mut h = res_block(g, c, &format!("{name}.resnets.0"), x, channels)?;
    if c.mid_block_add_attention {
        h = attention(g, c, &format!("{name}.attentions.0"), h)?;
    }
    res_block(g, c, &format!("{name}.resnets.1"), h, channels)
}

/// x + conv(silu(norm(conv(silu(norm(x))))))
fn res_block(g: &mut Graph, c: &VaeConfig, name: &str, x: TensorId, channels: usize) -> Result<TensorId> {
    let path = |part: &str| format!("{name}.{part}");
    let skip = g.past_block(&path("conv_shortcut"), x, None, channels)?;
    let h = g.group_norm(&path("norm1"), x, norm(c, true), GroupNormExtra::NONE)?;
    let h = g.conv(&path("conv1"), h, (3, 1), channels, None)?;
    let h = g.group_norm(&path("norm2"), h, norm(c, true), GroupNormExtra::NONE)?;
    g.conv(&path("conv2"), h, (3, 1), channels, Some(skip))
}

/// Attention with one head over all pixels.
fn attention(g: &mut Graph, c: &VaeConfig, name: &str, x: TensorId) -> Result<TensorId> {
    let channels = g.shape(x).c;
    let u = g.group_norm(&format!("{name}.group_norm"), x, norm(c, false), GroupNormExtra::NONE)?;
    let q = g.conv(&format!("{name}.to_q"), u, (1, 1), channels, None)?;
    let k = g.conv(&format!("{name}.to_k"), u, (1, 1), channels, None)?;
    let v = g.conv(&format!("{name}.to_v"), u, (1, 1), channels, None)?;
    let o = g.one(CrossAttention::new(1), name, &[q, k, v])?;
    g.conv(&format!("{name}.to_out.0"), o, (1, 1), channels, Some(x))
}
