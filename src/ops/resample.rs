//! Nearest-neighbour upsampling by 2 and 2x2 pooling, each with a constant factor.
//!
//! up: `y[2i + a, 2j + b] = gain * x[i, j]`. VJP: dx[i, j] = gain * sum over a, b of
//! dy[2i + a, 2j + b], which is `pool` with the same gain.
//! pool: `y[i, j] = gain * sum over a, b of x[2i + a, 2j + b]` (average: gain 1/4). VJP: `up` with
//! the same gain.

use super::prelude::*;
use rayon::prelude::*;

/// Nearest-neighbour upsampling by 2. Input: x (n, h, w, c). Output (n, 2h, 2w, c).
#[derive(Debug, Clone)]
pub struct Upsample {
    /// Factor of every value.
    pub gain: f32,
}

/// Sums of 2x2 blocks. Input: x (n, h, w, c), h and w even. Output (n, h / 2, w / 2, c).
#[derive(Debug, Clone)]
pub struct Pool {
    /// Factor of every sum: 1/4 gives the average.
    pub gain: f32,
}

impl Op for Upsample {
    fn name(&self) -> &'static str {
        "upsample"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        Ok(vec![storage(Shape { h: 2 * x.h, w: 2 * x.w, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(Pool { gain: self.gain }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, x, gain) = (launch.output_shapes[0], launch.inputs[0], self.gain);
        launch.outputs[0].par_chunks_mut(s.w * s.c).enumerate().for_each(|(row, out)| {
            let source = &x[row / 2 * (s.w / 2) * s.c..];
            for (j, out) in out.chunks_mut(s.c).enumerate() {
                out.iter_mut().zip(&source[j / 2 * s.c..]).for_each(|(o, x)| *o = gain * x);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::UPSAMPLE, r.inputs[0], r.outputs[0], self.gain);
        Ok(())
    }
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if x.h % 2 != 0 || x.w % 2 != 0 {
            return Err(format!("height and width must be even, found {x}"));
        }
        Ok(vec![storage(Shape { h: x.h / 2, w: x.w / 2, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(Upsample { gain: self.gain }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        pool(launch.inputs[0], launch.output_shapes[0], self.gain, launch.outputs[0]);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::POOL, r.inputs[0], r.outputs[0], self.gain);
        Ok(())
    }
}

/// Writes the sums of 2x2 blocks of x, times `gain`, to `out`; `s` is the shape of `out`.
pub(super) fn pool(x: &[f32], s: Shape, gain: f32, out: &mut [f32]) {
    out.par_chunks_mut(s.w * s.c).enumerate().for_each(|(row, out)| {
        let (above, below) = x[2 * row * 2 * s.w * s.c..][..4 * s.w * s.c].split_at(2 * s.w * s.c);
        for (j, out) in out.chunks_mut(s.c).enumerate() {
            let (a, b) = (&above[2 * j * s.c..][..2 * s.c], &below[2 * j * s.c..][..2 * s.c]);
            for (c, o) in out.iter_mut().enumerate() {
                *o = gain * (a[c] + a[c + s.c] + b[c] + b[c + s.c]);
            }
        }
    });
}

/// Records a launch of `kernels::UPSAMPLE` or `kernels::POOL` from x to y.
pub(super) fn record(r: &mut Recorder<'_>, kernel: Kernel<kernels::ResampleParams>, x: Operand, y: Operand, gain: f32) {
    let small = if x.shape.h < y.shape.h { x.shape } else { y.shape };
    let vectors = if small.c % 4 == 0 { small.c / 4 } else { small.c };
    let params = kernels::ResampleParams {
        y: y.into(),
        x: x.into(),
        rows: small.n * small.h,
        w: small.w,
        channels: small.c,
        gain,
    };
    r.each(kernel, small.n * small.h * small.w * vectors, 1, params);
}
