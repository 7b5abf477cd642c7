//! Channels to pixels (PyTorch's `PixelShuffle(2)`) and pixels to channels.
//!
//! shuffle: `y[2i + a, 2j + b, c] = x[i, j, 4c + 2a + b]`
//! unshuffle: the inverse, `y[i, j, 4c + 2a + b] = x[2i + a, 2j + b, c]`
//! Both only move values, so the VJP of each is the other.

use super::prelude::*;
use rayon::prelude::*;

/// Four channels become 2x2 pixels. Input: x (n, h, w, 4 c). Output: (n, 2h, 2w, c).
#[derive(Debug, Clone)]
pub struct PixelShuffle;

/// 2x2 pixels become four channels. Input: x (n, 2h, 2w, c). Output: (n, h, w, 4 c).
#[derive(Debug, Clone)]
pub struct PixelUnshuffle;

/// Calls `each` with every output row of (columns, channels) pixels and its number.
fn rows(out: &mut [f32], s: Shape, each: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(s.w * s.c).enumerate().for_each(|(row, out)| each(row, out));
}

impl Op for PixelShuffle {
    fn name(&self) -> &'static str {
        "pixel_shuffle"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if x.c % 4 != 0 {
            return Err(format!("the number of channels must be a multiple of 4, found {x}"));
        }
        Ok(vec![storage(Shape { h: 2 * x.h, w: 2 * x.w, c: x.c / 4, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(PixelUnshuffle, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, y, x) = (launch.input_shapes[0], launch.output_shapes[0], launch.inputs[0]);
        rows(launch.outputs[0], y, |row, out| {
            let x = &x[row / 2 * s.w * s.c..][..s.w * s.c];
            for (j, out) in out.chunks_mut(y.c).enumerate() {
                let pixel = &x[j / 2 * s.c..][..s.c];
                out.iter_mut().zip(pixel.chunks(4)).for_each(|(y, four)| *y = four[2 * (row % 2) + j % 2]);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::PIXEL_SHUFFLE, r.outputs[0].shape);
        Ok(())
    }
}

impl Op for PixelUnshuffle {
    fn name(&self) -> &'static str {
        "pixel_unshuffle"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if x.h % 2 != 0 || x.w % 2 != 0 {
            return Err(format!("height and width must be even, found {x}"));
        }
        Ok(vec![storage(Shape { h: x.h / 2, w: x.w / 2, c: 4 * x.c, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(PixelShuffle, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, y, x) = (launch.input_shapes[0], launch.output_shapes[0], launch.inputs[0]);
        let channels = y.c;
        rows(launch.outputs[0], y, |row, out| {
            for (k, v) in out.iter_mut().enumerate() {
                let (j, c, a, b) = (k / channels, k % channels / 4, k / 2 % 2, k % 2);
                *v = x[((2 * row + a) * s.w + 2 * j + b) * s.c + c];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::PIXEL_UNSHUFFLE, r.inputs[0].shape);
        Ok(())
    }
}

/// Records a launch between x and y, of which one has the shape `pixels`.
fn record(r: &mut Recorder<'_>, kernel: Kernel<kernels::PixelShuffleParams>, pixels: Shape) {
    let (x, y) = (r.inputs[0], r.outputs[0]);
    let params = kernels::PixelShuffleParams {
        y: y.into(),
        x: x.into(),
        count: pixels.numel(),
        w: pixels.w,
        channels: pixels.c,
    };
    r.each(kernel, pixels.numel(), 1, params);
}
