//! Layer norm over the channels of every pixel: `y = gamma (x - mean) rstd + beta`,
//! `rstd = 1 / sqrt(variance + eps)`
//!
//! VJP, with xhat = (x - mean) rstd and p = gamma dy: dx = rstd (p - avg(p) - xhat avg(p xhat)),
//! averages over the channels; dgamma and dbeta are the sums of dy xhat and dy over the pixels. A
//! VJP reads x anyway, so it computes mean and rstd of each pixel again. It can add to existing
//! gradients.

use super::partial_sums::{self, Chunks};
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

/// Gradients of gamma and beta, f32. Inputs: dy, x, then optionally the gradients that the results are
/// added to.
#[derive(Debug, Clone)]
pub struct LayerNormWeightVjp {
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
        let (name, dout) = (r.name(), r.dout(0)?);
        if r.wants(1) || r.wants(2) {
            let mut inputs = vec![dout, r.input(0)];
            inputs.extend(r.accumulate_both([1, 2]));
            let both = r.graph.add(LayerNormWeightVjp { eps: self.eps }, &name, &inputs)?;
            r.give(1, both[0]);
            r.give(2, both[1]);
        }
        if !r.wants(0) {
            return Ok(());
        }
        let mut inputs = vec![dout, r.input(0), r.input(1)];
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
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
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

impl Op for LayerNormWeightVjp {
    fn name(&self) -> &'static str {
        "layer_norm_weight_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if inputs.len() != 4 {
            expect_inputs(inputs, 2)?;
        }
        expect_shape(inputs[0], inputs[1].shape)?;
        let c = Shape::vector(inputs[1].shape.c);
        inputs[2..].iter().try_for_each(|sum| expect_shape(sum, c))?;
        Ok(vec![single("dgamma", c), single("dbeta", c)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        8 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(2, 0), (3, 1)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x, c) = (launch.inputs[0], launch.inputs[1], launch.input_shapes[1].c);
        let chunks = dy.par_chunks(CHUNK_PIXELS * c).zip(x.par_chunks(CHUNK_PIXELS * c));
        let partial: Vec<[Vec<f32>; 2]> = chunks.map(|(dy, x)| weight_sums(dy, x, c, self.eps)).collect();
        for (k, out) in launch.outputs.iter_mut().enumerate() {
            match launch.inputs.get(2 + k) {
                Some([]) => {}
                Some(sum) => out.copy_from_slice(sum),
                None => out.fill(0.0),
            }
            for (i, out) in out.iter_mut().enumerate() {
                *out = (*out as f64 + partial.iter().map(|p| p[k][i] as f64).sum::<f64>()) as f32;
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, c) = (r.inputs[0], r.inputs[1], r.inputs[1].shape.c);
        let pixels = x.shape.numel() / c;
        let chunks = Chunks::new(r, (1, pixels), c);
        let (moments, partial) = (r.scratch(2 * pixels), r.scratch(chunks.count * 2 * c));
        let params = kernels::LayerNormMomentsParams {
            moments: moments.into(),
            x: x.into(),
            pixels,
            channels: c,
            eps: self.eps,
        };
        r.launch(kernels::LAYER_NORM_MOMENTS, [pixels.div_ceil(8), 1, 1], 256, 0, params);
        let params = kernels::LayerNormWeightParams {
            partial: partial.into(),
            moments: moments.into(),
            dy: dy.into(),
            x: x.into(),
            pixels,
            chunk: chunks.pixels,
            channels: c,
        };
        let grid = [chunks.columns, chunks.count, 1];
        r.launch(kernels::LAYER_NORM_WEIGHT_VJP, grid, 256, 2 * Chunks::SHARED, params);
        let [dgamma, dbeta] = [0, 1].map(|k| (r.outputs[k], r.inputs.get(2 + k).copied()));
        partial_sums::record(r, partial, chunks.count, dgamma, Some(dbeta));
        Ok(())
    }
}

/// Pixels per partial sum of the parameters' gradients. It is fixed, so that the result does not
/// depend on the number of threads.
const CHUNK_PIXELS: usize = 256;

/// For each channel, the sums of dy xhat and of dy over some pixels.
fn weight_sums(dy: &[f32], x: &[f32], c: usize, eps: f32) -> [Vec<f32>; 2] {
    let [mut dgamma, mut dbeta] = [(); 2].map(|_| vec![0.0; c]);
    for (dy, x) in dy.chunks(c).zip(x.chunks(c)) {
        let (mean, rstd) = statistics(x, eps);
        for (((dgamma, dbeta), dy), x) in dgamma.iter_mut().zip(&mut dbeta).zip(dy).zip(x) {
            *dgamma += dy * ((x - mean) * rstd);
            *dbeta += dy;
        }
    }
    [dgamma, dbeta]
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
