//! Rounding to steps that differ from place to place in blocks of 8x8, as JPEG rounds its
//! coefficients: `y = s round(x / s)`
//!
//! The derivative is 0 almost everywhere and says nothing. VJP, one of two: dx = dy, that of the
//! identity (the straight-through estimate, Bengio et al. 2013), since y is x up to half a step; or
//! that of s (r + (x / s - r)^3) with r = round(x / s) held (Shin and Song 2017):
//! dx = 3 (x / s - r)^2 dy, which is 0 where rounding changes nothing and at most 3/4 dy.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// Side of a block in pixels.
pub const BLOCK: usize = 8;

/// Rounds halves to even. Input: x (n, h, w, c).
#[derive(Debug, Clone)]
pub struct Quantise {
    /// The steps of a block, (8, 8, c), above 0.
    pub steps: Vec<f32>,
    /// The gradient is that of the cubic approximation, else that of the identity.
    pub cubic: bool,
}

/// The gradient of the cubic approximation. Inputs: dy, x.
#[derive(Debug, Clone)]
pub struct QuantiseVjp {
    /// The steps of [`Quantise`].
    pub steps: Vec<f32>,
}

/// Fails unless there is a step for every place and channel.
fn check(steps: &[f32], x: Shape) -> Result<(), String> {
    if steps.len() != BLOCK * BLOCK * x.c || steps.iter().any(|s| s.is_nan() || *s <= 0.0) {
        return Err(format!("{} steps above 0 are needed, for 8x8 places and {} channels", 64 * x.c, x.c));
    }
    Ok(())
}

/// Index of the step of value `k` of an image with `c` channels and `w` columns.
fn step_of(k: usize, w: usize, h: usize, c: usize) -> usize {
    let (row, column) = (k / c / w % h % BLOCK, k / c % w % BLOCK);
    (row * BLOCK + column) * c + k % c
}

/// The steps of an image as the kernels take them.
fn steps_of(r: &mut Recorder<'_>, steps: &[f32], x: Shape) -> Result<kernels::QuantiseSteps> {
    let values = r.table(steps)?.into();
    Ok(kernels::QuantiseSteps { values, count: x.numel(), h: x.h, w: x.w, channels: x.c })
}

impl Op for Quantise {
    fn name(&self) -> &'static str {
        "quantise"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        check(&self.steps, inputs[0].shape)?;
        Ok(vec![single("", inputs[0].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.input(0));
        let dx = match self.cubic {
            true => r.graph.one(QuantiseVjp { steps: self.steps.clone() }, &name, &[dout, x])?,
            false => dout,
        };
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        3 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, s) = (launch.inputs[0], launch.input_shapes[0]);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (k, y) in (at..).zip(out) {
                let step = self.steps[step_of(k, s.w, s.h, s.c)];
                *y = step * (x[k] / step).round_ties_even();
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let steps = steps_of(r, &self.steps, x.shape)?;
        let params = kernels::QuantiseParams { y: y.into(), x: x.into(), steps };
        r.each(kernels::QUANTISE, x.shape.numel(), 1, params);
        Ok(())
    }
}

impl Op for QuantiseVjp {
    fn name(&self) -> &'static str {
        "quantise_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        check(&self.steps, inputs[0].shape)?;
        Ok(vec![single("", inputs[0].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        6 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x, s) = (launch.inputs[0], launch.inputs[1], launch.input_shapes[0]);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (k, dx) in (at..).zip(out) {
                let steps = x[k] / self.steps[step_of(k, s.w, s.h, s.c)];
                *dx = 3.0 * (steps - steps.round_ties_even()).powi(2) * dy[k];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let steps = steps_of(r, &self.steps, x.shape)?;
        let params = kernels::QuantiseVjpParams { dx: dx.into(), dy: dy.into(), x: x.into(), steps };
        r.each(kernels::QUANTISE_VJP, x.shape.numel(), 1, params);
        Ok(())
    }
}
