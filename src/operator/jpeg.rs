//! JPEG: what is left of an image after it was compressed (ITU-T T.81).

use super::colour::LUMA;
use super::contract::{Operator, check_colour};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::add::Add;
use crate::ops::axis_filter::Taps;
use crate::ops::channel_mix::ChannelMix;
use crate::ops::crop::Crop;
use crate::ops::pointwise::Clamp;
use crate::ops::quantise::{BLOCK, Quantise};
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x)`: x compressed and decoded. The colours are at half the resolution (4:2:0), in means of
/// 2x2 pixels that are repeated; decoders that smooth them give slightly other pictures. Every 8x8
/// block is rounded in the cosine transform. The gradient is an approximation, see
/// [`JpegGradient`].
#[derive(Debug)]
pub struct Jpeg {
    /// As libjpeg's: 1 to 100.
    pub quality: usize,
    /// How the gradient passes the rounding, whose derivative says nothing.
    pub gradient: JpegGradient,
}

/// What stands in for the derivative of the rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JpegGradient {
    /// That of the identity.
    Straight,
    /// That of a cubic polynomial between two steps: 0 at a step, 3/4 halfway between two.
    Cubic,
}

/// The values of the option `gradient`.
const GRADIENTS: [(&str, JpegGradient); 2] = [("straight", JpegGradient::Straight), ("cubic", JpegGradient::Cubic)];

/// Steps of the luma and of the colours at quality 50 (tables K.1 and K.2), row by row.
const LUMA_STEPS: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
const COLOUR_STEPS: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99,
];

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let quality = options.count("quality", 25, 1..=100)?;
    let gradient = GRADIENTS[options.choice("gradient", &GRADIENTS.map(|g| g.0))?].1;
    Ok(Arc::new(Jpeg { quality, gradient }))
}

impl Jpeg {
    /// The rounding of images of `channels` channels, whose values run from -127.5 to 127.5.
    fn rounding(&self, table: &[u16; 64], channels: usize) -> Quantise {
        let percent = if self.quality < 50 { 5000 / self.quality } else { 200 - 2 * self.quality };
        let step = |&t: &u16| ((usize::from(t) * percent + 50) / 100).clamp(1, 255) as f32;
        let steps = table.iter().flat_map(|t| vec![step(t); channels]).collect();
        Quantise { steps, cubic: self.gradient == JpegGradient::Cubic }
    }

    /// `x` rounded in the cosine transform of its blocks. Its sides are multiples of 8.
    fn rounded(&self, g: &mut Graph, name: &str, x: TensorId, table: &[u16; 64]) -> Result<TensorId> {
        let shape = g.shape(x);
        let transform = [shape.h, shape.w].map(blocks);
        let back = transform.each_ref().map(|taps| Arc::new(taps.transposed()));
        let x = g.along_axes(&format!("{name}.cosine"), x, transform.map(Arc::new))?;
        let x = g.one(self.rounding(table, shape.c), &format!("{name}.round"), &[x])?;
        g.along_axes(&format!("{name}.pixels"), x, back)
    }
}

/// The cosine transform of every block of an axis.
fn blocks(n: usize) -> Taps {
    let one = Taps::cosine_transform(BLOCK);
    let row = |i: usize| one.rows[i % BLOCK].iter().map(|&(j, w)| (i / BLOCK * BLOCK + j, w)).collect();
    Taps { rows: (0..n).map(row).collect(), inputs: n }
}

/// The last of `n` positions repeated up to `whole`.
fn continued(n: usize, whole: usize) -> Taps {
    Taps { rows: (0..whole).map(|i| vec![(i.min(n - 1), 1.0)]).collect(), inputs: n }
}

/// The means of pairs of `n` positions.
fn halved(n: usize) -> Taps {
    Taps { rows: (0..n / 2).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)]).collect(), inputs: n }
}

/// Every one of `n` positions twice.
fn doubled(n: usize) -> Taps {
    Taps { rows: (0..2 * n).map(|i| vec![(i / 2, 1.0)]).collect(), inputs: n }
}

impl Operator for Jpeg {
    fn task(&self) -> String {
        let end = if self.gradient == JpegGradient::Cubic { ",gradient=cubic" } else { "" };
        format!("jpeg:quality={}{end}", self.quality)
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let image = g.shape(x);
        // Blocks of the half resolution cover 16 pixels.
        let whole = [image.h, image.w].map(|n| n.next_multiple_of(2 * BLOCK));
        let x = match whole == [image.h, image.w] {
            true => x,
            false => {
                let taps = [continued(image.h, whole[0]), continued(image.w, whole[1])];
                g.along_axes("operator.continued", x, taps.map(Arc::new))?
            }
        };
        // JPEG counts from 0 to 255 and subtracts 128, so luma in [-1, 1] lies half a level lower.
        let scaled = |row: [f32; 3]| row.map(|w| 127.5 * w).to_vec();
        let luma = g.one(ChannelMix { rows: vec![scaled(LUMA)] }, "operator.luma", &[x])?;
        let one = Shape { c: 1, ..g.shape(luma) };
        let half = g.constant("half a level", one, vec![0.5; one.numel()]);
        let luma = g.one(Add { scale: -1.0 }, "operator.luma.levels", &[luma, half])?;
        let luma = self.rounded(g, "operator.luma", luma, &LUMA_STEPS)?;
        let luma = g.one(Add { scale: 1.0 }, "operator.luma.decoded", &[luma, half])?;

        let colours = vec![scaled([-0.168736, -0.331264, 0.5]), scaled([0.5, -0.418688, -0.081312])];
        let colours = g.one(ChannelMix { rows: colours }, "operator.colours", &[x])?;
        let colours = g.along_axes("operator.halved", colours, whole.map(|n| Arc::new(halved(n))))?;
        let colours = self.rounded(g, "operator.colours", colours, &COLOUR_STEPS)?;
        let colours = g.along_axes("operator.doubled", colours, whole.map(|n| Arc::new(doubled(n / 2))))?;

        let level = 1.0 / 127.5;
        let grey = g.one(ChannelMix { rows: vec![vec![level]; 3] }, "operator.grey", &[luma])?;
        let tints = [[0.0, 1.402], [-0.344136, -0.714136], [1.772, 0.0]];
        let rows = tints.map(|row| row.map(|w| level * w).to_vec()).to_vec();
        let tints = g.one(ChannelMix { rows }, "operator.tints", &[colours])?;
        let decoded = g.one(Add { scale: 1.0 }, "operator.decoded", &[grey, tints])?;
        let decoded = match whole == [image.h, image.w] {
            true => decoded,
            false => g.one(Crop { h: image.h, w: image.w }, "operator.crop", &[decoded])?,
        };
        g.one(Clamp { low: -1.0, high: 1.0 }, "operator.clamp", &[decoded])
    }
    fn is_linear(&self) -> bool {
        false
    }
}
