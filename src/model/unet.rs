//! The conditional UNet of latent diffusion (Rombach et al. 2022; `UNet2DConditionModel` of Stable Diffusion 1.x and 2.x), in the
//! order in which it runs.

use super::latent_config::UnetConfig;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::attention::CrossAttention;
use crate::ops::conv::Conv;
use crate::ops::group_norm::GroupNormOptions;
use crate::ops::timestep_embedding::TimestepEmbedding;

/// A linear layer over the channels of every pixel.
const POINTWISE: Conv = Conv::new(1, 1);

/// Records the network. `x` is (n, h, w, in_channels) in VP coordinates, `t` (n, 1, 1, 1) the timestep, `context` (n or 1, 1, tokens,
/// cross_attention_dim) the embedded text. Gives (n, h, w, out_channels).
pub fn unet(g: &mut Graph, c: &UnetConfig, x: TensorId, t: TensorId, context: TensorId) -> Result<TensorId> {
    let (size, multiple) = (g.shape(x), c.size_multiple());
    if size.h % multiple != 0 || size.w % multiple != 0 {
        let reason = format!("a latent of {}x{}; this UNet takes multiples of {multiple}", size.w, size.h);
        return Err(Error::Invalid(reason));
    }
    let levels = c.block_out_channels.len();
    let emb = time_embedding(g, c, t)?;
    let mut unet = Unet { g, c, emb, context };

    // Down: every block's output is kept for the way up.
    let mut h = unet.g.conv("unet.conv_in", x, (3, 1), c.block_out_channels[0], None)?;
    let mut skips = vec![h];
    for level in 0..levels {
        let name = format!("unet.down_blocks.{level}");
        for j in 0..c.layers_per_block {
            h = unet.res_block(&format!("{name}.resnets.{j}"), h, None, c.block_out_channels[level])?;
            if c.down_attention(level) {
                h = unet.transformer(&format!("{name}.attentions.{j}"), h, c.heads[level])?;
            }
            skips.push(h);
        }
        if level + 1 < levels {
            h = unet.g.conv(&format!("{name}.downsamplers.0.conv"), h, (3, 2), c.block_out_channels[level], None)?;
            skips.push(h);
        }
    }

    let channels = c.block_out_channels[levels - 1];
    h = unet.res_block("unet.mid_block.resnets.0", h, None, channels)?;
    h = unet.transformer("unet.mid_block.attentions.0", h, c.heads[levels - 1])?;
    h = unet.res_block("unet.mid_block.resnets.1", h, None, channels)?;

    // Up: each block reads the kept tensor of its counterpart.
    for (i, level) in (0..levels).rev().enumerate() {
        let name = format!("unet.up_blocks.{i}");
        for j in 0..=c.layers_per_block {
            h = unet.res_block(&format!("{name}.resnets.{j}"), h, skips.pop(), c.block_out_channels[level])?;
            if c.up_attention(i) {
                h = unet.transformer(&format!("{name}.attentions.{j}"), h, c.heads[level])?;
            }
        }
        if level > 0 {
            let name = format!("{name}.upsamplers.0");
            let doubling = Conv { doubled: true, ..Conv::new(3, 1) };
            h = unet.g.conv_as(doubling, &format!("{name}.conv"), h, c.block_out_channels[level], &[])?;
        }
    }
    let norm = GroupNormOptions::new(c.norm_num_groups, c.norm_eps, true);
    let h = unet.g.group_norm("unet.conv_norm_out", h, norm, &[])?;
    unet.g.conv_as(Conv::LAST, "unet.conv_out", h, c.out_channels, &[])
}

/// SiLU of the time embedding, which is all that the blocks read: (n, 1, 1, 4 c).
fn time_embedding(g: &mut Graph, c: &UnetConfig, t: TensorId) -> Result<TensorId> {
    let channels = c.block_out_channels[0];
    let e = g.one(TimestepEmbedding { channels }, "unet.time_proj", &[t])?;
    let e = g.linear_silu("unet.time_embedding.linear_1", e, 4 * channels)?;
    g.linear_silu("unet.time_embedding.linear_2", e, 4 * channels)
}

struct Unet<'a> {
    g: &'a mut Graph,
    c: &'a UnetConfig,
    emb: TensorId,
    context: TensorId,
}

impl Unet<'_> {
    /// x + conv(silu(norm(conv(silu(norm(x))) + emb))), where the channels of `kept`, if any, follow those of x.
    fn res_block(&mut self, name: &str, x: TensorId, kept: Option<TensorId>, channels: usize) -> Result<TensorId> {
        let norm = GroupNormOptions::new(self.c.norm_num_groups, self.c.norm_eps, true);
        let path = |part: &str| format!("{name}.{part}");
        // The way past the block comes first: its gradient is then added to that of the norm, as it is written.
        let skip = self.g.past_block(&path("conv_shortcut"), x, kept, channels)?;
        let joined = GroupNormOptions { joined: kept.is_some(), ..norm };
        let h = self.g.group_norm(&path("norm1"), x, joined, kept.as_slice())?;
        let time = self.g.linear(&path("time_emb_proj"), self.emb, channels)?;
        let conv = Conv { item_bias: true, ..Conv::new(3, 1) };
        let h = self.g.conv_as(conv, &path("conv1"), h, channels, &[time])?;
        let h = self.g.group_norm(&path("norm2"), h, norm, &[])?;
        self.g.conv(&path("conv2"), h, (3, 1), channels, Some(skip))
    }

    /// One transformer block over the pixels, between two projections: x + proj_out(block(proj_in(norm(x)))).
    fn transformer(&mut self, name: &str, x: TensorId, heads: usize) -> Result<TensorId> {
        let c = self.g.shape(x).c;
        let norm = GroupNormOptions::new(self.c.norm_num_groups, 1e-6, false);
        let h = self.g.group_norm(&format!("{name}.norm"), x, norm, &[])?;
        let h = self.g.conv(&format!("{name}.proj_in"), h, (1, 1), c, None)?;
        let block = |part: &str| format!("{name}.transformer_blocks.0.{part}");

        let u = self.g.layer_norm(&block("norm1"), h, 1e-5)?;
        let h = self.attention(&block("attn1"), u, u, heads, h)?;
        let u = self.g.layer_norm(&block("norm2"), h, 1e-5)?;
        let h = self.attention(&block("attn2"), u, self.context, heads, h)?;
        let u = self.g.layer_norm(&block("norm3"), h, 1e-5)?;
        let u = self.g.geglu(&block("ff.net.0.proj"), u, 4 * c)?;
        let h = self.g.conv(&block("ff.net.2"), u, (1, 1), c, Some(h))?;

        self.g.conv(&format!("{name}.proj_out"), h, (1, 1), c, Some(x))
    }

    /// residual + to_out(attention(to_q(x), to_k(source), to_v(source)))
    fn attention(
        &mut self,
        name: &str,
        x: TensorId,
        source: TensorId,
        heads: usize,
        residual: TensorId,
    ) -> Result<TensorId> {
        let c = self.g.shape(x).c;
        let unbiased = Conv { bias: false, ..POINTWISE };
        let q = self.g.conv_as(unbiased.clone(), &format!("{name}.to_q"), x, c, &[])?;
        let k = self.g.conv_as(unbiased.clone(), &format!("{name}.to_k"), source, c, &[])?;
        let v = self.g.conv_as(unbiased, &format!("{name}.to_v"), source, c, &[])?;
        let o = self.g.one(CrossAttention { heads, causal: false }, name, &[q, k, v])?;
        self.g.conv(&format!("{name}.to_out.0"), o, (1, 1), c, Some(residual))
    }
}
