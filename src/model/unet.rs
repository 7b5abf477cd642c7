//! The conditional UNet of latent diffusion (Rombach et al. 2022; `UNet2DConditionModel` of Stable
//! Diffusion 1.x and 2.x), in the order in which it runs.

use super::control::{CONTROL, ControlConfig, Encoded};
use super::latent_config::UnetConfig;
use crate::error::{Error, Result};
use crate::graph::{Graph, Source, TensorId};
use crate::ops::attention::{Attention, CrossAttention, QkvOrder};
use crate::ops::conv::{Conv, ConvExtra};
use crate::ops::group_norm::{GroupNormExtra, GroupNormOptions};
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::{Shape, WeightPart};

/// A linear layer over the channels of every pixel.
const POINTWISE: Conv = Conv::new(1, 1);

/// Records the network. `x` (n, h, w, in_channels) is in VP coordinates, `t` (n, 1, 1, 1) is the
/// timestep, and `text` (n or 1, 1, tokens, cross_attention_dim) is the text embedding. `control` is
/// added to the outputs of the encoder half. Gives (n, h, w, out_channels).
pub fn unet(
    g: &mut Graph,
    c: &UnetConfig,
    x: TensorId,
    t: TensorId,
    text: TensorId,
    control: Option<&Encoded>,
) -> Result<TensorId> {
    let mut unet = Unet::new(g, c, "unet", t, text)?;
    let encoded = unet.encoder(x, None)?;
    let encoded = encoded.plus(unet.g, control)?;
    unet.decoder(encoded)
}

/// Records a ControlNet of this UNet, which reads `condition` (n, factor h, factor w, condition
/// channels). Gives what it adds to the outputs of the UNet's encoder half.
pub fn controlnet(
    g: &mut Graph,
    (c, control): (&UnetConfig, &ControlConfig),
    x: TensorId,
    t: TensorId,
    text: TensorId,
    condition: TensorId,
) -> Result<Encoded> {
    let hint = control.hint(g, condition, c.block_out_channels[0])?;
    let own = Unet::new(g, c, CONTROL, t, text)?.encoder(x, Some(hint))?;
    control.additions(g, &own)
}

/// SiLU of the time embedding, (n, 1, 1, 4 c) for c channels at the first level. The blocks read
/// the embedding only through this SiLU.
fn time_embedding(g: &mut Graph, c: &UnetConfig, prefix: &str, t: TensorId) -> Result<TensorId> {
    let channels = c.block_out_channels[0];
    let e = g.one(TimestepEmbedding { channels }, &format!("{prefix}.time_proj"), &[t])?;
    let e = g.linear_silu(&format!("{prefix}.time_embedding.linear_1"), e, 4 * channels)?;
    g.linear_silu(&format!("{prefix}.time_embedding.linear_2"), e, 4 * channels)
}

/// The form in which the cross-attention layers read the text.
enum Text {
    /// The text embedding. Every layer computes its own keys and values, and the embedding has a
    /// gradient.
    Embedded(TensorId),
    /// Keys and values of all layers (n or 1, 1, tokens, ..), layer by layer. `taken` is the number
    /// of channels that earlier layers have read.
    Projected { keys_and_values: TensorId, taken: usize },
}

/// Computes the keys and values of a fixed text for all layers in one matrix product. Two small
/// products per layer would take 1 % of a step.
fn text(g: &mut Graph, c: &UnetConfig, prefix: &str, context: TensorId) -> Result<Text> {
    if !matches!(g.tensor(context).source, Source::Weight(_)) {
        return Ok(Text::Embedded(context));
    }
    let width = c.cross_attention_dim;
    let layers = transformers(c, prefix).into_iter().flat_map(|(name, channels)| {
        let shape = Shape::new(channels, 1, 1, width);
        ["to_k", "to_v"].map(|p| (format!("{name}.transformer_blocks.0.attn2.{p}"), shape))
    });
    let keys_and_values = product(g, &format!("{prefix}.text"), context, layers)?;
    Ok(Text::Projected { keys_and_values, taken: 0 })
}

/// Name and channels of every transformer, in the order in which they run. A ControlNet has those of
/// the encoder half.
fn transformers(c: &UnetConfig, prefix: &str) -> Vec<(String, usize)> {
    let levels = c.block_out_channels.len();
    let (channels, layers) = (|level: usize| c.block_out_channels[level], c.layers_per_block);
    let down = (0..levels).filter(|&level| c.down_attention(level));
    let down = down.flat_map(|level| (0..layers).map(move |j| (format!("down_blocks.{level}.attentions.{j}"), level)));
    let middle = ("mid_block.attentions.0".to_string(), levels - 1);
    let up = (0..levels).filter(|&i| prefix != CONTROL && c.up_attention(i));
    let up = up.flat_map(|i| (0..=layers).map(move |j| (format!("up_blocks.{i}.attentions.{j}"), levels - 1 - i)));
    down.chain([middle]).chain(up).map(|(name, level)| (format!("{prefix}.{name}"), channels(level))).collect()
}

/// Linear layers of x without bias, given by name and weight (out, 1, 1, in), as one product; their
/// outputs follow each other.
fn product(
    g: &mut Graph,
    name: &str,
    x: TensorId,
    layers: impl IntoIterator<Item = (String, Shape)>,
) -> Result<TensorId> {
    let parts = layers.into_iter().map(|(layer, shape)| WeightPart { name: format!("{layer}.weight"), shape });
    let weight = g.weight_of_parts(&format!("{name}.weight"), &parts.collect::<Vec<_>>());
    g.one(Conv { bias: false, ..POINTWISE }, name, &[x, weight])
}

struct Unet<'a> {
    g: &'a mut Graph,
    c: &'a UnetConfig,
    prefix: &'static str,
    emb: TensorId,
    text: Text,
}

impl<'a> Unet<'a> {
    /// Embeds timestep and text with the weights under `prefix`.
    fn new(
        g: &'a mut Graph,
        c: &'a UnetConfig,
        prefix: &'static str,
        t: TensorId,
        context: TensorId,
    ) -> Result<Unet<'a>> {
        let emb = time_embedding(g, c, prefix, t)?;
        let text = text(g, c, prefix, context)?;
        Ok(Unet { g, c, prefix, emb, text })
    }

    /// The encoder half: the down path, whose blocks' outputs the decoder half reads, and the middle
    /// block. `hint` is added to the output of the first convolution.
    fn encoder(&mut self, x: TensorId, hint: Option<TensorId>) -> Result<Encoded> {
        let (c, size, multiple, prefix) = (self.c, self.g.shape(x), self.c.size_multiple(), self.prefix);
        if size.h % multiple != 0 || size.w % multiple != 0 {
            let reason = format!("a latent of {}x{}; this UNet takes multiples of {multiple}", size.w, size.h);
            return Err(Error::Invalid(reason));
        }
        let levels = c.block_out_channels.len();
        let mut h = self.g.conv(&format!("{prefix}.conv_in"), x, (3, 1), c.block_out_channels[0], hint)?;
        let mut skips = vec![h];
        for level in 0..levels {
            let name = format!("{prefix}.down_blocks.{level}");
            for j in 0..c.layers_per_block {
                h = self.res_block(&format!("{name}.resnets.{j}"), h, None, c.block_out_channels[level])?;
                if c.down_attention(level) {
                    h = self.transformer(&format!("{name}.attentions.{j}"), h, c.heads[level])?;
                }
                skips.push(h);
            }
            if level + 1 < levels {
                h = self.g.conv(
                    &format!("{name}.downsamplers.0.conv"),
                    h,
                    (3, 2),
                    c.block_out_channels[level],
                    None,
                )?;
                skips.push(h);
            }
        }

        let (channels, name) = (c.block_out_channels[levels - 1], format!("{prefix}.mid_block"));
        h = self.res_block(&format!("{name}.resnets.0"), h, None, channels)?;
        h = self.transformer(&format!("{name}.attentions.0"), h, c.heads[levels - 1])?;
        h = self.res_block(&format!("{name}.resnets.1"), h, None, channels)?;
        Ok(Encoded { skips, middle: h })
    }

    /// The decoder half: each block also reads the output of its counterpart in the encoder half.
    fn decoder(&mut self, Encoded { mut skips, middle }: Encoded) -> Result<TensorId> {
        let (c, prefix) = (self.c, self.prefix);
        let mut h = middle;
        for (i, level) in (0..c.block_out_channels.len()).rev().enumerate() {
            let name = format!("{prefix}.up_blocks.{i}");
            for j in 0..=c.layers_per_block {
                h = self.res_block(&format!("{name}.resnets.{j}"), h, skips.pop(), c.block_out_channels[level])?;
                if c.up_attention(i) {
                    h = self.transformer(&format!("{name}.attentions.{j}"), h, c.heads[level])?;
                }
            }
            if level > 0 {
                let name = format!("{name}.upsamplers.0");
                let doubling = Conv { doubled: true, ..Conv::new(3, 1) };
                h = self.g.conv_as(
                    doubling,
                    &format!("{name}.conv"),
                    h,
                    c.block_out_channels[level],
                    ConvExtra::NONE,
                )?;
            }
        }
        let norm = GroupNormOptions::new(c.norm_num_groups, c.norm_eps, true);
        let h = self.g.group_norm(&format!("{prefix}.conv_norm_out"), h, norm, GroupNormExtra::NONE)?;
        self.g.conv_as(Conv::LAST, &format!("{prefix}.conv_out"), h, c.out_channels, ConvExtra::NONE)
    }

    /// x + conv(silu(norm(conv(silu(norm(x))) + emb))). The channels of `second`, if any, follow
    /// the channels of x.
    fn res_block(&mut self, name: &str, x: TensorId, second: Option<TensorId>, channels: usize) -> Result<TensorId> {
        let norm = GroupNormOptions::new(self.c.norm_num_groups, self.c.norm_eps, true);
        let path = |part: &str| format!("{name}.{part}");
        // The skip path is recorded first. The reverse pass then adds its gradient to the norm's
        // gradient while that is written.
        let skip = self.g.past_block(&path("conv_shortcut"), x, second, channels)?;
        let sources = GroupNormExtra { second, ..GroupNormExtra::NONE };
        let h = self.g.group_norm(&path("norm1"), x, norm, sources)?;
        let item_bias = Some(self.g.linear(&path("time_emb_proj"), self.emb, channels)?);
        let time = ConvExtra { item_bias, ..ConvExtra::NONE };
        let h = self.g.conv_as(Conv::new(3, 1), &path("conv1"), h, channels, time)?;
        let h = self.g.group_norm(&path("norm2"), h, norm, GroupNormExtra::NONE)?;
        self.g.conv(&path("conv2"), h, (3, 1), channels, Some(skip))
    }

    /// One transformer block over the pixels, between two projections: x +
    /// proj_out(block(proj_in(norm(x)))).
    fn transformer(&mut self, name: &str, x: TensorId, heads: usize) -> Result<TensorId> {
        let c = self.g.shape(x).c;
        let norm = GroupNormOptions::new(self.c.norm_num_groups, 1e-6, false);
        let h = self.g.group_norm(&format!("{name}.norm"), x, norm, GroupNormExtra::NONE)?;
        let h = self.g.conv(&format!("{name}.proj_in"), h, (1, 1), c, None)?;
        let block = |part: &str| format!("{name}.transformer_blocks.0.{part}");

        let u = self.g.layer_norm(&block("norm1"), h, 1e-5)?;
        let h = self.self_attention(&block("attn1"), u, heads, h)?;
        let u = self.g.layer_norm(&block("norm2"), h, 1e-5)?;
        let h = self.text_attention(&block("attn2"), u, heads, h)?;
        let u = self.g.layer_norm(&block("norm3"), h, 1e-5)?;
        let u = self.g.geglu(&block("ff.net.0.proj"), u, 4 * c)?;
        let h = self.g.conv(&block("ff.net.2"), u, (1, 1), c, Some(h))?;

        self.g.conv(&format!("{name}.proj_out"), h, (1, 1), c, Some(x))
    }

    /// addend + to_out(attention(to_q(x), to_k(x), to_v(x)))
    fn self_attention(&mut self, name: &str, x: TensorId, heads: usize, addend: TensorId) -> Result<TensorId> {
        let c = self.g.shape(x).c;
        let layers = ["to_q", "to_k", "to_v"].map(|p| (format!("{name}.{p}"), Shape::new(c, 1, 1, c)));
        let qkv = product(self.g, &format!("{name}.to_qkv"), x, layers)?;
        let o = self.g.one(Attention { heads, order: QkvOrder::ByKind }, name, &[qkv])?;
        self.g.conv(&format!("{name}.to_out.0"), o, (1, 1), c, Some(addend))
    }

    /// addend + to_out(attention(to_q(x), to_k(text), to_v(text)))
    fn text_attention(&mut self, name: &str, x: TensorId, heads: usize, addend: TensorId) -> Result<TensorId> {
        let c = self.g.shape(x).c;
        let layer = |part: &str| format!("{name}.{part}");
        let unbiased = Conv { bias: false, ..POINTWISE };
        let q = self.g.conv_as(unbiased.clone(), &layer("to_q"), x, c, ConvExtra::NONE)?;
        let (k, v, first_channels) = match &mut self.text {
            Text::Embedded(text) => {
                let k = self.g.conv_as(unbiased.clone(), &layer("to_k"), *text, c, ConvExtra::NONE)?;
                (k, self.g.conv_as(unbiased, &layer("to_v"), *text, c, ConvExtra::NONE)?, [0, 0])
            }
            Text::Projected { keys_and_values, taken } => {
                let first = std::mem::replace(taken, *taken + 2 * c);
                (*keys_and_values, *keys_and_values, [first, first + c])
            }
        };
        let attention = CrossAttention { first_channels, ..CrossAttention::new(heads) };
        let o = self.g.one(attention, name, &[q, k, v])?;
        self.g.conv(&layer("to_out.0"), o, (1, 1), c, Some(addend))
    }
}
