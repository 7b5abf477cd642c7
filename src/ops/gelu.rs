//! `y = x Phi(x)` with the normal distribution function Phi (exact, by erf), or the quick form `y = x s(1.702 x)`
//!
//! VJP: y' = Phi(x) + x phi(x) with the density phi; of the quick form y' = s + 1.702 x s (1 - s) with s = s(1.702 x).
//! It needs x.

use super::prelude::*;
use crate::backend::cpu::parallel::{map1, map2, sigmoid};

/// The Gaussian error linear unit. Input: x.
#[derive(Debug, Clone)]
pub struct Gelu {
    /// The quick form.
    pub quick: bool,
}

/// Its VJP. Inputs: dy, x.
#[derive(Debug, Clone)]
pub struct GeluVjp {
    /// The quick form.
    pub quick: bool,
}

fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

pub(crate) fn gelu(x: f32, quick: bool) -> f32 {
    if quick { x * sigmoid(1.702 * x) } else { x * phi(x) }
}

pub(crate) fn gelu_slope(x: f32, quick: bool) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    if quick {
        let s = sigmoid(1.702 * x);
        return s + 1.702 * x * s * (1.0 - s);
    }
    phi(x) + x * DENSITY * (-0.5 * x * x).exp()
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.input(0));
        let dx = r.graph.one(GeluVjp { quick: self.quick }, &name, &[dout, x])?;
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
        let (x, quick) = (launch.input_unless_in_place(0), self.quick);
        map1(launch.outputs[0], x, |x| gelu(x, quick));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let params = Params::new().view_out(&y).view(&x).i64(count).i32s(&[self.quick.into(), 0]);
        r.each("gelu", count.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Op for GeluVjp {
    fn name(&self) -> &'static str {
        "gelu_vjp"
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
        let (dy, x, quick) = (launch.input_unless_in_place(0), launch.inputs[1], self.quick);
        map2(launch.outputs[0], dy, Some(x), |dy, x| dy * gelu_slope(x, quick));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = dx.shape.numel();
        let params = Params::new().view_out(&dx).view(&dy).view(&x).i64(count).i32s(&[self.quick.into(), 0]);
        r.each("gelu::gelu_vjp", count.div_ceil(4), 1, params);
        Ok(())
    }
}
