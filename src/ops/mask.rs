//! `y = m x` with one value of m per pixel, or one per value of x
//!
//! VJP: dx = m dy, the same op. The mask belongs to the known operator and has no gradient.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// Product with a mask. Inputs: x (n, h, w, c), mask (n, h, w, 1) or (n, h, w, c). Output (n, h, w,
/// c).
#[derive(Debug, Clone)]
pub struct Mask;

impl Op for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let x = inputs[0].shape;
        let channels = if inputs[1].shape.c == x.c { x.c } else { 1 };
        expect_shape(inputs[1], Shape { c: channels, ..x })?;
        Ok(vec![single("", x)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..2, "the mask is known")?;
        let (dout, mask, name) = (r.dout(0)?, r.input(1), r.name());
        let dx = r.graph.one(Mask, &name, &[dout, mask])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (c, x, mask) = (values_per_mask(&launch.input_shapes), launch.inputs[0], launch.inputs[1]);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = x[at + i] * mask[(at + i) / c];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, mask, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = y.shape.numel();
        let channels = values_per_mask(&[x.shape, mask.shape]);
        let params = kernels::MaskParams { y: y.into(), x: x.into(), mask: mask.into(), count, channels };
        r.each(kernels::MASK, count, 1, params);
        Ok(())
    }
}

/// Neighbouring values of x that share one value of the mask.
fn values_per_mask(inputs: &[Shape]) -> usize {
    inputs[0].c / inputs[1].c
}
