//! The ADM UNet of guided-diffusion (Dhariwal and Nichol 2021), written in the order in which it
//! runs.

use super::adm_config::AdmConfig;
use super::control::{ControlConfig, Encoded};
use super::network::{Conditioning, Network, Prediction, Prior};
use super::opened::{CONFIGURED, check_tensors};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::add::Add;
use crate::ops::attention::{Attention, QkvOrder};
use crate::ops::conv::{Conv, ConvExtra};
use crate::ops::embedding::Embedding;
use crate::ops::group_norm::{GroupNormExtra, GroupNormOptions};
use crate::ops::pointwise::Silu;
use crate::ops::resample::{Pool, Upsample};
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::Shape;
use crate::weights::Checkpoint;

const EPS: f32 = 1e-5;

/// What the names of a ControlNet's weights start with.
const CONTROL_PREFIX: &str = "controlnet.";

/// The change of resolution in a residual block.
#[derive(Clone, Copy, PartialEq)]
enum Resize {
    No,
    Up,
    Down,
}

/// Records the network. `x` (n, h, w, in_channels) is an image in [-1, 1] plus noise, `t` (n, 1,
/// 1, 1) is the timestep of the training schedule, and `labels` (n, 1, 1, 1) are the class labels
/// of a conditional model. `control` is added to the outputs of the encoder half. Gives (n, h, w,
/// out_channels): eps, then the interpolation of the log variance if the model learned it.
pub fn adm(
    g: &mut Graph,
    c: &AdmConfig,
    x: TensorId,
    t: TensorId,
    labels: Option<TensorId>,
    control: Option<&Encoded>,
) -> Result<TensorId> {
    let mut unet = Unet::new(g, c, "", t, labels)?;
    let encoded = unet.encoder(x, None)?;
    let encoded = encoded.plus(unet.g, control)?;
    unet.decoder(encoded)
}

/// SiLU of the time embedding (plus class embedding), (n, 1, 1, 4 model_channels). The blocks read
/// the embedding only through this SiLU.
fn time_embedding(
    g: &mut Graph,
    c: &AdmConfig,
    prefix: &str,
    t: TensorId,
    labels: Option<TensorId>,
) -> Result<TensorId> {
    let (width, path) = (4 * c.model_channels, |part: &str| format!("{prefix}{part}"));
    let e = g.one(TimestepEmbedding { channels: c.model_channels }, &path("timestep_embedding"), &[t])?;
    let e = g.linear_silu(&path("time_embed.0"), e, width)?;
    match (c.class_cond, labels) {
        (false, None) => g.linear_silu(&path("time_embed.2"), e, width),
        (true, Some(labels)) => {
            let e = g.linear(&path("time_embed.2"), e, width)?;
            let table = g.weight(&path("label_emb.weight"), Shape::new(c.num_classes, 1, 1, width));
            let class = g.one(Embedding, &path("label_emb"), &[labels, table])?;
            let e = g.one(Add { scale: 1.0 }, &path("label_emb.sum"), &[e, class])?;
            g.one(Silu, &path("emb.silu"), &[e])
        }
        (true, None) => Err(Error::Invalid("this model is class-conditional: it needs a label per image".into())),
        (false, Some(_)) => Err(Error::Invalid("this model is not class-conditional: it takes no labels".into())),
    }
}

struct Unet<'a> {
    g: &'a mut Graph,
    c: &'a AdmConfig,
    prefix: &'static str,
    emb: TensorId,
}

impl<'a> Unet<'a> {
    /// Embeds timestep and labels. The names of all weights start with `prefix`.
    fn new(
        g: &'a mut Graph,
        c: &'a AdmConfig,
        prefix: &'static str,
        t: TensorId,
        labels: Option<TensorId>,
    ) -> Result<Unet<'a>> {
        let emb = time_embedding(g, c, prefix, t, labels)?;
        Ok(Unet { g, c, prefix, emb })
    }

    /// The encoder half: the down path, whose blocks' outputs the decoder half reads, and the middle
    /// block. `hint` is added to the output of the first convolution.
    fn encoder(&mut self, x: TensorId, hint: Option<TensorId>) -> Result<Encoded> {
        let (c, size, multiple, prefix) = (self.c, self.g.shape(x), self.c.size_multiple(), self.prefix);
        if size.h % multiple != 0 || size.w % multiple != 0 {
            let reason = format!("{}x{} pixels; this model takes multiples of {multiple}", size.w, size.h);
            return Err(Error::Invalid(reason));
        }
        let mut h = self.g.conv(&format!("{prefix}input_blocks.0.0"), x, (3, 1), c.channels(0), hint)?;
        let mut skips = vec![h];
        let (mut ds, mut index) = (1, 0);
        for level in 0..c.channel_mult.len() {
            for _ in 0..c.num_res_blocks {
                index += 1;
                h = self.block(&format!("{prefix}input_blocks.{index}"), h, None, c.channels(level), ds)?;
                skips.push(h);
            }
            if level + 1 < c.channel_mult.len() {
                index += 1;
                h = self.downsample(&format!("{prefix}input_blocks.{index}.0"), h)?;
                skips.push(h);
                ds *= 2;
            }
        }

        let (channels, name) = (self.g.shape(h).c, format!("{prefix}middle_block"));
        h = self.res_block(&format!("{name}.0"), h, None, channels, Resize::No)?;
        h = self.attention(&format!("{name}.1"), h)?;
        h = self.res_block(&format!("{name}.2"), h, None, channels, Resize::No)?;
        Ok(Encoded { skips, middle: h })
    }

    /// The decoder half: each block also reads the output of its counterpart in the encoder half.
    fn decoder(&mut self, Encoded { mut skips, middle }: Encoded) -> Result<TensorId> {
        let (c, prefix, mut h, mut index) = (self.c, self.prefix, middle, 0);
        for level in (0..c.channel_mult.len()).rev() {
            let ds = 1 << level;
            for i in 0..=c.num_res_blocks {
                let name = format!("{prefix}output_blocks.{index}");
                h = self.block(&name, h, skips.pop(), c.channels(level), ds)?;
                if level > 0 && i == c.num_res_blocks {
                    let position = if c.attention_ds.contains(&ds) { 2 } else { 1 };
                    h = self.upsample(&format!("{name}.{position}"), h)?;
                }
                index += 1;
            }
        }
        let norm = GroupNormOptions::new(c.norm_groups, EPS, true);
        let h = self.g.group_norm(&format!("{prefix}out.0"), h, norm, GroupNormExtra::NONE)?;
        self.g.conv_as(Conv::LAST, &format!("{prefix}out.2"), h, c.out_channels(), ConvExtra::NONE)
    }

    /// A residual block, with attention if this resolution has it. The channels of `second`, if
    /// any, follow the channels of x.
    fn block(
        &mut self,
        name: &str,
        x: TensorId,
        second: Option<TensorId>,
        channels: usize,
        ds: usize,
    ) -> Result<TensorId> {
        let h = self.res_block(&format!("{name}.0"), x, second, channels, Resize::No)?;
        if self.c.attention_ds.contains(&ds) { self.attention(&format!("{name}.1"), h) } else { Ok(h) }
    }

    fn res_block(
        &mut self,
        name: &str,
        x: TensorId,
        second: Option<TensorId>,
        channels: usize,
        resize: Resize,
    ) -> Result<TensorId> {
        let groups = GroupNormOptions::new(self.c.norm_groups, EPS, true);
        let path = |part: &str| format!("{name}.{part}");

        // The skip path is recorded first. The reverse pass then adds its gradient to the norm's
        // gradient while that is written.
        let skip = self.resized(&path("x_upd"), x, resize)?;
        let skip = self.g.past_block(&path("skip_connection"), skip, second, channels)?;

        // h = conv(resize(silu(norm(x))))
        let sources = GroupNormExtra { second, ..GroupNormExtra::NONE };
        let h = self.g.group_norm(&path("in_layers.0"), x, groups, sources)?;
        let (conv, h) = match resize {
            Resize::Up => (Conv { doubled: true, ..Conv::new(3, 1) }, h),
            _ => (Conv::new(3, 1), self.resized(&path("h_upd"), h, resize)?),
        };

        // The time embedding scales and shifts the norm's output, or is added to the norm's input.
        let h = if self.c.use_scale_shift_norm {
            let h = self.g.conv_as(conv, &path("in_layers.2"), h, channels, ConvExtra::NONE)?;
            let film = Some(self.g.linear(&path("emb_layers.1"), self.emb, 2 * channels)?);
            self.g.group_norm(&path("out_layers.0"), h, groups, GroupNormExtra { film, second: None })?
        } else {
            let item_bias = Some(self.g.linear(&path("emb_layers.1"), self.emb, channels)?);
            let time = ConvExtra { item_bias, ..ConvExtra::NONE };
            let h = self.g.conv_as(conv, &path("in_layers.2"), h, channels, time)?;
            self.g.group_norm(&path("out_layers.0"), h, groups, GroupNormExtra::NONE)?
        };
        self.g.conv(&path("out_layers.3"), h, (3, 1), channels, Some(skip))
    }

    fn attention(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        let channels = self.g.shape(x).c;
        let order = if self.c.use_new_attention_order { QkvOrder::ByKind } else { QkvOrder::ByHead };
        let op = Attention { heads: self.c.heads(channels), order };
        let norm = GroupNormOptions::new(self.c.norm_groups, EPS, false);
        let h = self.g.group_norm(&format!("{name}.norm"), x, norm, GroupNormExtra::NONE)?;
        let qkv = self.g.conv(&format!("{name}.qkv"), h, (1, 1), 3 * channels, None)?;
        let h = self.g.one(op, &format!("{name}.attention"), &[qkv])?;
        self.g.conv(&format!("{name}.proj_out"), h, (1, 1), channels, Some(x))
    }

    fn downsample(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        let channels = self.g.shape(x).c;
        match (self.c.resblock_updown, self.c.conv_resample) {
            (true, _) => self.res_block(name, x, None, channels, Resize::Down),
            (false, true) => self.g.conv(&format!("{name}.op"), x, (3, 2), channels, None),
            (false, false) => self.resized(name, x, Resize::Down),
        }
    }

    fn upsample(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        let channels = self.g.shape(x).c;
        if self.c.resblock_updown {
            return self.res_block(name, x, None, channels, Resize::Up);
        }
        match self.c.conv_resample {
            true => {
                let conv = Conv { doubled: true, ..Conv::new(3, 1) };
                self.g.conv_as(conv, &format!("{name}.conv"), x, channels, ConvExtra::NONE)
            }
            false => self.resized(name, x, Resize::Up),
        }
    }

    fn resized(&mut self, name: &str, x: TensorId, resize: Resize) -> Result<TensorId> {
        match resize {
            Resize::No => Ok(x),
            Resize::Up => self.g.one(Upsample { gain: 1.0 }, name, &[x]),
            Resize::Down => self.g.one(Pool { gain: 0.25 }, name, &[x]),
        }
    }
}

/// Checks that a file has exactly the tensors that the network reads. Missing, unexpected and
/// mis-shaped tensors are errors.
pub fn check_file(config: &AdmConfig, checkpoint: &Checkpoint) -> Result<()> {
    let advice = "its configuration has to give num_heads or num_head_channels";
    config.check_heads().map_err(|reason| checkpoint.error(format!("{reason}: {advice}")))?;
    let mut g = Graph::new();
    let size = config.size_multiple();
    let x = g.input("x", Shape::new(1, size, size, config.in_channels));
    let t = g.input("t", Shape::rows(1, 1));
    let labels = config.class_cond.then(|| g.input("labels", Shape::rows(1, 1)));
    adm(&mut g, config, x, t, labels, None)
        .map_err(|e| checkpoint.error(format!("its configuration can't be built: {e}")))?;
    check_tensors(&g, "", std::slice::from_ref(checkpoint), &CONFIGURED)
}

impl Network for AdmConfig {
    fn prior(&self) -> Prior {
        Prior {
            channels: self.in_channels,
            learn_sigma: self.learn_sigma,
            classes: self.class_cond.then_some(self.num_classes),
            diffusion_steps: self.diffusion_steps,
            noise_schedule: self.noise_schedule,
            rescale_timesteps: self.rescale_timesteps,
            size_multiple: self.size_multiple(),
            prediction: Prediction::Epsilon,
            latent: None,
        }
    }
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, given: &Conditioning) -> Result<TensorId> {
        if given.text.is_some() {
            return Err(Error::Invalid("a pixel model is given no text".into()));
        }
        adm(g, self, x, t, given.labels, given.control.as_ref())
    }
    fn record_control(
        &self,
        g: &mut Graph,
        control: &ControlConfig,
        x: TensorId,
        t: TensorId,
        given: &Conditioning,
    ) -> Result<Encoded> {
        let hint = control.hint(g, given.condition_image()?, self.channels(0))?;
        let own = Unet::new(g, self, CONTROL_PREFIX, t, given.labels)?.encoder(x, Some(hint))?;
        control.additions(g, &own)
    }
}
