//! `y = x s(x)` with `s(x) = 1 / (1 + exp(-x))`
//!
//! VJP: y' = s + x s (1 - s) = s (1 + x (1 - s)), so dx = dy s (1 + x (1 - s)); needs x.

use super::prelude::*;
use crate::backend::cpu::parallel::{map1, map2, sigmoid};

/// The sigmoid linear unit. Input: x.
#[derive(Debug, Clone)]
pub struct Silu;

/// Its VJP. Inputs: dy, x.
#[derive(Debug, Clone)]
pub struct SiluVjp;

/// d silu / dx
#[inline(always)]
pub(crate) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

impl Op for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let x = r.input(0);
        let dx = r.graph.one(SiluVjp, &name, &[dout, x])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        8 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let x = launch.input_unless_in_place(0);
        map1(launch.outputs[0], x, |x| x * sigmoid(x));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        r.each("silu", count.div_ceil(4), 1, Params::new().view_out(&y).view(&x).i64(count));
        Ok(())
    }
}

impl Op for SiluVjp {
    fn name(&self) -> &'static str {
        "silu_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[1].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        12 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x) = (launch.input_unless_in_place(0), launch.inputs[1]);
        map2(launch.outputs[0], dy, Some(x), |dy, x| dy * silu_slope(x));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = dx.shape.numel();
        r.each("silu::silu_vjp", count.div_ceil(4), 1, Params::new().view_out(&dx).view(&dy).view(&x).i64(count));
        Ok(())
    }
}
