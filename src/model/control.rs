//! The parts that turn a copy of a UNet's encoder half into a ControlNet (Zhang, Rao and Agrawala
//! 2023): the embedding of the condition image and the zero convolutions.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::add::{Add, Scale};
use crate::ops::pointwise::Silu;

/// Prefix of a ControlNet's weights in a graph.
pub const CONTROL: &str = "controlnet";

/// Outputs of the encoder half of a UNet: what its decoder half reads, or what a ControlNet adds to
/// that.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The skip connections, in the order in which the encoder half makes them.
    pub skips: Vec<TensorId>,
    /// Output of the middle block.
    pub middle: TensorId,
}

/// The settings of a ControlNet that do not follow from its UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlConfig {
    /// Channels of the condition image, 1 or 3.
    pub condition_channels: usize,
    /// Channels of the levels of the condition's embedding; each level but the first halves the
    /// resolution of a latent model's condition.
    pub embedding_channels: Vec<usize>,
    /// Image pixels along one side of a pixel of x.
    pub factor: usize,
    /// What the additions are multiplied with.
    pub scale: f64,
}

impl ControlConfig {
    /// The embedding of a condition image (n, h, w, condition_channels): (n, h / factor, w / factor,
    /// channels). Its last convolution is zero before training.
    pub fn hint(&self, g: &mut Graph, condition: TensorId, channels: usize) -> Result<TensorId> {
        let path = |part: &str| format!("{CONTROL}.controlnet_cond_embedding.{part}");
        let conv = |g: &mut Graph, part: &str, h, stride, channels| {
            let h = g.conv(&path(part), h, (3, stride), channels, None)?;
            g.one(Silu, &path(&format!("{part}.silu")), &[h])
        };
        let stride = if self.factor > 1 { 2 } else { 1 };
        let mut h = conv(g, "conv_in", condition, 1, self.embedding_channels[0])?;
        for (k, pair) in self.embedding_channels.windows(2).enumerate() {
            h = conv(g, &format!("blocks.{}", 2 * k), h, 1, pair[0])?;
            h = conv(g, &format!("blocks.{}", 2 * k + 1), h, stride, pair[1])?;
        }
        g.conv(&path("conv_out"), h, (3, 1), channels, None)
    }

    /// What the ControlNet adds to the outputs of the UNet's encoder half: its own, each through a
    /// 1x1 convolution that is zero before training, times `scale`.
    pub fn additions(&self, g: &mut Graph, own: &Encoded) -> Result<Encoded> {
        let mut addition = |name: String, h: TensorId| {
            let channels = g.shape(h).c;
            let addition = g.conv(&name, h, (1, 1), channels, None)?;
            match self.scale == 1.0 {
                true => Ok(addition),
                false => g.one(Scale { scale: self.scale as f32 }, &format!("{name}.scaled"), &[addition]),
            }
        };
        let of_skip = |(k, &h)| addition(format!("{CONTROL}.controlnet_down_blocks.{k}"), h);
        let skips = own.skips.iter().enumerate().map(of_skip).collect::<Result<_>>()?;
        Ok(Encoded { skips, middle: addition(format!("{CONTROL}.controlnet_mid_block"), own.middle)? })
    }
}

impl Encoded {
    /// These outputs with the additions of a ControlNet, if there is one.
    pub fn plus(self, g: &mut Graph, control: Option<&Encoded>) -> Result<Encoded> {
        let Some(control) = control else { return Ok(self) };
        let mut sum = |k: usize, h: TensorId, addition: TensorId| {
            g.one(Add { scale: 1.0 }, &format!("control.{k}"), &[h, addition])
        };
        let count = self.skips.len();
        let pairs = self.skips.into_iter().zip(&control.skips).enumerate();
        let skips = pairs.map(|(k, (h, &addition))| sum(k, h, addition)).collect::<Result<_>>()?;
        Ok(Encoded { skips, middle: sum(count, self.middle, control.middle)? })
    }
}
