//! Compressed sensing: a share of the Walsh-Hadamard coefficients of every block.

use super::contract::{Observed, Operator, StateOrigin};
use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::ops::axis_filter::Taps;
use crate::ops::mask::Mask;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x) = m W x`: the orthonormal Walsh-Hadamard transform W of blocks, and a mask m that keeps
/// the same coefficients of all channels. The coefficients lie where the pixels of the block were.
/// The first coefficient of a block, its mean, is always kept: without it nothing tells how bright
/// the block is.
#[derive(Debug)]
pub struct CompressedSensing {
    /// Side of a block in pixels, a power of two.
    pub block: usize,
    /// Share of the coefficients that are kept.
    pub kept: f64,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let (block, kept) = (options.count("block", 32, 2..=256)?, options.number("kept", 0.25, 0.001..=1.0)?);
    match block.is_power_of_two() {
        true => Ok(Arc::new(CompressedSensing { block, kept })),
        false => Err(options.error(&format!("block is {block}, expected a power of two"))),
    }
}

/// The orthonormal Walsh-Hadamard transform, in natural order, of every `block` of an axis of `n`
/// pixels. It is symmetric and its own inverse.
fn hadamard(n: usize, block: usize) -> Taps {
    let size = (block as f64).sqrt().recip() as f32;
    let row = |i: usize| {
        let start = i / block * block;
        let sign = |j: usize| if ((i % block) & j).count_ones() % 2 == 0 { size } else { -size };
        (0..block).map(|j| (start + j, sign(j))).collect()
    };
    Taps { rows: (0..n).map(row).collect(), inputs: n }
}

impl CompressedSensing {
    /// W of images of shape `x`, along the height and along the width.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| hadamard(n, self.block))
    }
}

impl Operator for CompressedSensing {
    fn task(&self) -> String {
        format!("compressed-sensing:block={},kept={}", self.block, self.kept)
    }
    fn check(&self, x: Shape) -> Result<()> {
        if x.h % self.block == 0 && x.w % self.block == 0 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{}: an image of {}x{} pixels is not made of blocks of {block}x{block}; crop it with --size, or choose another \
             block",
            self.task(),
            x.w,
            x.h,
            block = self.block
        )))
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape { c: 1, ..x })
    }
    fn draw_state(&self, x: Shape, seed: u64) -> Result<Vec<f32>> {
        let mut random = Stream::new(NoiseKey { seed, image: 0, step: 0, draw: Draw::Operator });
        let per_block = self.block * self.block;
        let count = ((self.kept * per_block as f64).round() as usize).max(1);
        let mut mask = vec![0.0; x.h * x.w];
        for (top, left) in (0..x.h / self.block).flat_map(|i| (0..x.w / self.block).map(move |j| (i, j))) {
            let mut order: Vec<usize> = (0..per_block).collect();
            // Place 0 stays where it is.
            for i in 1..count {
                let j = i + random.below(per_block - i);
                order.swap(i, j);
            }
            for &at in &order[..count] {
                let (row, column) = (top * self.block + at / self.block, left * self.block + at % self.block);
                mask[row * x.w + column] = 1.0;
            }
        }
        Ok(mask)
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::Drawn { given: None }
    }
    fn check_state(&self, _: Shape, mask: &[f32]) -> Result<()> {
        match mask.iter().find(|v| **v != 0.0 && **v != 1.0) {
            Some(v) => Err(Error::Invalid(format!("the mask holds {v}; it is 1 where a coefficient is known, else 0"))),
            None => Ok(()),
        }
    }
    fn observed<'a>(&self, _: Shape, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let coefficients = g.along_axes("operator.hadamard", x, self.maps(g.shape(x)).map(Arc::new))?;
        let mask = state.expect("every operator with a state gets one");
        g.one(Mask, "operator.mask", &[coefficients, mask])
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::basis(|x| self.maps(x), |_, mask| mask.iter().map(|&m| f64::from(m).powi(2)).collect()))
    }
    fn measures_pictures(&self) -> bool {
        false
    }
    fn naive(&self, y: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        let [rows, columns] = self.maps(x);
        let y = Picture { width: x.w, height: x.h, values: y.to_vec() };
        Some(("inverse transform", y.along_axes(&rows.rows, &columns.rows).clamped()))
    }
}
