//! Operators on the channels of a pixel: one channel in place of three, one of three per pixel, and
//! a range that is too short.

use super::contract::{Observed, Operator, check_colour};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::add::Scale;
use crate::ops::channel_mix::ChannelMix;
use crate::ops::mask::Mask;
use crate::ops::pointwise::Clamp;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// Weights of red, green and blue in the luma of ITU-R BT.601.
pub(super) const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// `A(x)`: a weighted mean of the channels. The task is to colour a grey picture.
#[derive(Debug)]
pub struct Colorize {
    /// Uses the weights of the luma in place of equal ones.
    pub luma: bool,
}

/// `A(x)`: what a sensor under a Bayer filter sees of a picture. Of every 2x2 pixels it keeps blue
/// at the top left, green at the top right and bottom left, and red at the bottom right; the other
/// values are missing.
#[derive(Debug)]
pub struct Demosaic;

/// `A(x) = clip(gain x, -1, 1)`: the middle of the range, stretched. What is brighter or darker is
/// lost.
#[derive(Debug)]
pub struct Hdr {
    /// Factor around mid grey; above 1.
    pub gain: f64,
}

pub(super) fn parse_colorize(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(Colorize { luma: options.choice("weights", &["luma", "mean"])? == 0 }))
}

pub(super) fn parse_hdr(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(Hdr { gain: options.number("gain", 2.0, 1.0..=100.0)? }))
}

impl Operator for Colorize {
    fn task(&self) -> String {
        format!("colorize:weights={}", if self.luma { "luma" } else { "mean" })
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { c: 1, ..x }
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let weights = if self.luma { LUMA } else { [1.0 / 3.0; 3] };
        g.one(ChannelMix { rows: vec![weights.to_vec()] }, "operator.grey", &[x])
    }
}

impl Operator for Demosaic {
    fn task(&self) -> String {
        "demosaic".into()
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_colour(self, x)
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(x)
    }
    fn draw_state(&self, x: Shape, _: u64) -> Result<Vec<f32>> {
        let is_seen = |k: usize| {
            let (row, column) = (k / x.c / x.w, k / x.c % x.w);
            k % x.c == [[2, 1], [1, 0]][row % 2][column % 2]
        };
        Ok((0..x.h * x.w * x.c).map(|k| f32::from(u8::from(is_seen(k)))).collect())
    }
    fn observed<'a>(&self, _: Shape, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let mask = state.expect("every operator with a state gets one");
        g.one(Mask, "operator.mask", &[x, mask])
    }
}

impl Operator for Hdr {
    fn task(&self) -> String {
        format!("hdr:gain={}", self.gain)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let x = g.one(Scale { scale: self.gain as f32 }, "operator.gain", &[x])?;
        g.one(Clamp { low: -1.0, high: 1.0 }, "operator.clip", &[x])
    }
    fn is_linear(&self) -> bool {
        false
    }
}
