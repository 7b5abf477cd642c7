//! Sums over pixels: `y[n, c] = sum over h, w of x[n, h, w, c]`, or over the items as well. They are
//! the gradients of what a layer adds to every pixel: its bias, and the time embedding of an item.
//!
//! A gradient of a gradient is not derived. The sum can add to an existing gradient.

use super::partial_sums::{self, Chunks};
use super::prelude::*;
use crate::backend::cpu::channel_loops::channel_sums;
use rayon::prelude::*;

/// The sum, f32. Inputs: x, then optionally a gradient that the result is added to. Output (n, 1,
/// 1, c), or (1, 1, 1, c).
#[derive(Debug, Clone)]
pub struct PixelSum {
    /// Sums over the items as well.
    pub over_items: bool,
}

impl PixelSum {
    fn output(&self, x: Shape) -> Shape {
        if self.over_items { Shape::vector(x.c) } else { Shape::rows(x.n, x.c) }
    }
}

/// Pixels per partial sum. It is fixed, so that the result does not depend on the number of threads.
const CHUNK_PIXELS: usize = 256;

impl Op for PixelSum {
    fn name(&self) -> &'static str {
        "pixel_sum"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if inputs.len() != 2 {
            expect_inputs(inputs, 1)?;
        }
        let y = self.output(inputs[0].shape);
        if let Some(sum) = inputs.get(1) {
            expect_shape(sum, y)?;
        }
        Ok(vec![single("", y)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let x = launch.input_shapes[0];
        let sum = if launch.inputs.len() == 2 { launch.input_unless_in_place(1) } else { None };
        let is_added = launch.inputs.len() == 2;
        let rows = if self.over_items { x.numel() } else { x.item() };
        let y = &mut *launch.outputs[0];
        for (k, (y, x_rows)) in y.chunks_mut(x.c).zip(launch.inputs[0].chunks(rows)).enumerate() {
            let partial: Vec<Vec<f32>> = x_rows.par_chunks(CHUNK_PIXELS * x.c).map(|p| channel_sums(p, x.c)).collect();
            for (c, y) in y.iter_mut().enumerate() {
                let total: f64 = partial.iter().map(|p| p[c] as f64).sum();
                let before = match sum {
                    Some(sum) => sum[k * x.c + c],
                    None if is_added => *y,
                    None => 0.0,
                };
                *y = (before as f64 + total) as f32;
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, c) = (r.inputs[0], r.inputs[0].shape.c);
        let items = if self.over_items { 1 } else { x.shape.n };
        let pixels = x.shape.numel() / c / items;
        let chunks = Chunks::new(r, (items, pixels), c);
        let partial = r.scratch(chunks.count * items * c);
        let params =
            kernels::PixelSumParams { partial: partial.into(), x: x.into(), pixels, chunk: chunks.pixels, channels: c };
        r.launch(kernels::PIXEL_SUM, [chunks.columns, chunks.count, items], 256, Chunks::SHARED, params);
        let sum = (r.outputs[0], r.inputs.get(1).copied());
        partial_sums::record(r, partial, chunks.count, sum, None);
        Ok(())
    }
}
