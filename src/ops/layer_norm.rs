//! Layer norm over the channels of every pixel: `y = gamma (x - mean) rstd + beta`,
//! `rstd = 1 / sqrt(variance + eps)`
//!
//! VJP, with xhat = (x - mean) rstd and p = gamma dy: dx = rstd (p - avg(p) - xhat avg(p xhat)),
//! averages over the channels. The VJP reads x anyway, so it computes mean and rstd of each pixel
//! again. It can add to an existing gradient.

use super::prelude::*;
use crate::backend::cpu::parallel::{interleaved_sum, vectorised};
use crate::graph::record::{Graph, TensorId};
use rayon::prelude::*;

/// The norm. Inputs: x, gamma and beta (1, 1, 1, c).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

/// VJP with respect to x. Inputs: dy, x, gamma, then optionally a gradient that the result is added
/// to.
#[derive(Debug, Clone)]
pub struct LayerNormVjp {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        let x = inputs[0].shape;
        expect_shape(inputs[1], Shape::vector(x.c))?;
        expect_shape(inputs[2], Shape::vector(x.c))?;
        Ok(vec![storage(x)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..3, "weights are fixed")?;
        let name = r.name();
        let mut inputs = vec![r.dout(0)?, r.input(0), r.input(1)];
        inputs.extend(r.accumulate(0));
        let dx = r.graph.one(LayerNormVjp { eps: self.eps }, &name, &inputs)?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        8 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let [x, gamma, beta] = launch.inputs[..] else { unreachable!("three inputs") };
        let (c, eps) = (gamma.len(), self.eps);
        launch.outputs[0].par_chunks_mut(c).zip(x.par_chunks(c)).with_min_len(PIXELS).for_each(|(y, x)| {
            normalise(y, x, gamma, beta, eps);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, gamma, beta, y) = (r.inputs[0], r.inputs[1], r.inputs[2], r.outputs[0]);
        let (pixels, c) = (x.shape.numel() / x.shape.c, x.shape.c);
        let params = kernels::LayerNormParams {
            y: y.into(),
            x: x.into(),
            gamma: gamma.into(),
            beta: beta.into(),
            pixels,
            channels: c,
            eps: self.eps,
        };
        r.launch(kernels::LAYER_NORM, [pixels.div_ceil(8), 1, 1], 256, 0, params);
        Ok(())
    }
}

impl Op for LayerNormVjp {
    fn name(&self) -> &'static str {
        "layer_norm_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if let Some(sum) = inputs.get(3) {
            expect_shape(sum, inputs[1].shape)?;
        }
        expect_inputs(inputs, inputs.len().clamp(3, 4))?;
        expect_shape(inputs[0], inputs[1].shape)?;
        expect_shape(inputs[2], Shape::vector(inputs[1].shape.c))?;
        Ok(vec![storage(inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        14 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x, gamma) = (launch.input_unless_in_place(0), launch.inputs[1], launch.inputs[2]);
        let (c, eps, dx) = (gamma.len(), self.eps, &mut *launch.outputs[0]);
        if let Some(dy) = dy {
            dx.copy_from_slice(dy);
        }
        let sum = launch.inputs.get(3);
        dx.par_chunks_mut(c).zip(x.par_chunks(c)).enumerate().with_min_len(PIXELS).for_each(|(pixel, (dx, x))| {
            slope(dx, x, gamma, eps);
            if let Some(sum) = sum {
                dx.iter_mut().zip(&sum[pixel * c..]).for_each(|(dx, s)| *dx += s);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, gamma, dx) = (r.inputs[0], r.inputs[1], r.inputs[2], r.outputs[0]);
        let (pixels, c) = (x.shape.numel() / x.shape.c, x.shape.c);
        let params = kernels::LayerNormVjpParams {
            dx: dx.into(),
            dy: dy.into(),
            x: x.into(),
            gamma: gamma.into(),
            addend: r.inputs.get(3).copied().into(),
            pixels,
            channels: c,
            eps: self.eps,
        };
        r.launch(kernels::LAYER_NORM_VJP, [pixels.div_ceil(8), 1, 1], 256, 0, params);
        Ok(())
    }
}

/// Minimum number of pixels per task.
const PIXELS: usize = 32;

/// Mean and 1 / sqrt(variance + eps) of one pixel's channels.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = (interleaved_sum(x.len(), |i| x[i]) / x.len() as f64) as f32;
    let variance = interleaved_sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / x.len() as f64;
    (mean, (1.0 / (variance + eps as f64).sqrt()) as f32)
}

vectorised! {
    fn normalise(y: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let (mean, rstd) = statistics(x, eps);
        for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = gamma * ((x - mean) * rstd) + beta;
        }
    }
}

vectorised! {
    /// Overwrites dy with dx, pixel by pixel.
    fn slope(dy: &mut [f32], x: &[f32], gamma: &[f32], eps: f32) {
        let (mean, rstd) = statistics(x, eps);
        let (x, gamma) = (&x[..dy.len()], &gamma[..dy.len()]);
        let count = dy.len() as f64;
        let average = (interleaved_sum(dy.len(), |i| gamma[i] * dy[i]) / count) as f32;
        let average_x = (interleaved_sum(dy.len(), |i| gamma[i] * dy[i] * (x[i] - mean)) / count) as f32 * rstd;
        for ((dy, x), gamma) in dy.iter_mut().zip(x).zip(gamma) {
            *dy = rstd * (gamma * *dy - average - (x - mean) * rstd * average_x);
        }
    }
}

impl Graph {
    /// Layer norm whose parameters are `name.weight` and `name.bias`.
    pub fn layer_norm(&mut self, name: &str, x: TensorId, eps: f32) -> Result<TensorId> {
        let c = self.shape(x).c;
        let gamma = self.weight(&format!("{name}.weight"), Shape::vector(c));
        let beta = self.weight(&format!("{name}.bias"), Shape::vector(c));
        self.one(LayerNorm { eps }, name, &[x, gamma, beta])
    }
}
