//! A sample of an encoder's Gaussian: `z = mean + exp(clamp(logvar, -30, 20) / 2) noise`. The first
//! half of the channels is the mean, the second half the log variance.
//!
//! VJP: dmean = dz; dlogvar = dz noise exp(logvar / 2) / 2 where logvar is inside the limits,
//! else 0. It reads moments and noise.

use super::prelude::*;
use rayon::prelude::*;

/// The sample. Inputs: moments (n, h, w, 2c), noise (n, h, w, c).
#[derive(Debug, Clone)]
pub struct DiagonalGaussian;

/// VJP with respect to the moments. Inputs: dz, moments, noise.
#[derive(Debug, Clone)]
pub struct DiagonalGaussianVjp;

/// Limits of the log variance, as in diffusers.
const RANGE: (f32, f32) = (-30.0, 20.0);

fn expect_moments(moments: &Tensor, noise: Shape) -> Result<(), String> {
    expect_shape(moments, Shape { c: 2 * noise.c, ..noise })
}

impl Op for DiagonalGaussian {
    fn name(&self) -> &'static str {
        "diagonal_gaussian"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_moments(inputs[0], inputs[1].shape)?;
        Ok(vec![single("", inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..2, "noise is drawn")?;
        let (dout, name, moments, noise) = (r.dout(0)?, r.name(), r.input(0), r.input(1));
        let d = r.graph.one(DiagonalGaussianVjp, &name, &[dout, moments, noise])?;
        r.give(0, d);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        8 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (c, [moments, noise]) = (launch.input_shapes[1].c, [launch.inputs[0], launch.inputs[1]]);
        let pixels = moments.par_chunks(2 * c).zip(noise.par_chunks(c));
        launch.outputs[0].par_chunks_mut(c).zip(pixels).with_min_len(256).for_each(|(z, (moments, noise))| {
            for i in 0..c {
                z[i] = moments[i] + (0.5 * moments[c + i].clamp(RANGE.0, RANGE.1)).exp() * noise[i];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (moments, noise, z) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let (count, channels) = (z.shape.numel(), z.shape.c);
        let params = kernels::DiagonalGaussianParams {
            z: z.into(),
            moments: moments.into(),
            noise: noise.into(),
            count,
            channels,
        };
        r.each(kernels::DIAGONAL_GAUSSIAN, count, 1, params);
        Ok(())
    }
}

impl Op for DiagonalGaussianVjp {
    fn name(&self) -> &'static str {
        "diagonal_gaussian_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        expect_moments(inputs[1], inputs[2].shape)?;
        expect_shape(inputs[0], inputs[2].shape)?;
        Ok(vec![storage(inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..3, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        8 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let c = launch.input_shapes[0].c;
        let [dz, moments, noise] = launch.inputs[..] else { unreachable!("three inputs") };
        let pixels = dz.par_chunks(c).zip(moments.par_chunks(2 * c).zip(noise.par_chunks(c)));
        launch.outputs[0].par_chunks_mut(2 * c).zip(pixels).with_min_len(256).for_each(
            |(d, (dz, (moments, noise)))| {
                for i in 0..c {
                    let logvar = moments[c + i];
                    let slope =
                        if logvar < RANGE.0 || logvar > RANGE.1 { 0.0 } else { 0.5 * (0.5 * logvar).exp() * noise[i] };
                    (d[i], d[c + i]) = (dz[i], dz[i] * slope);
                }
            },
        );
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dz, moments, noise] = r.inputs[..] else { unreachable!("three inputs") };
        let d = r.outputs[0];
        let count = dz.shape.numel();
        let params = kernels::DiagonalGaussianVjpParams {
            d: d.into(),
            dz: dz.into(),
            moments: moments.into(),
            noise: noise.into(),
            count,
            channels: dz.shape.c,
        };
        r.each(kernels::DIAGONAL_GAUSSIAN_VJP, count, 1, params);
        Ok(())
    }
}
