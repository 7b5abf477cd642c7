//! `y = min(max(x, low), high)`; what is not finite stays, so that an overflow does not pass for black or white.
//!
//! VJP: dx = dy where low <= x <= high, else 0; needs x.

use super::prelude::*;
use crate::backend::cpu::parallel::{map1, map2};

/// Limits every value. Input: x.
#[derive(Debug, Clone)]
pub struct Clamp {
    /// Smallest value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
}

/// Its VJP, the mask. Inputs: dy, x.
#[derive(Debug, Clone)]
pub struct ClampVjp {
    /// Smallest value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
}

impl Op for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, x, name) = (r.dout(0)?, r.input(0), r.name());
        let dx = r.graph.one(ClampVjp { low: self.low, high: self.high }, &name, &[dout, x])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, low, high) = (launch.input_unless_in_place(0), self.low, self.high);
        map1(launch.outputs[0], x, move |x| if x.is_finite() { x.max(low).min(high) } else { x });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let params = Params::new().view_out(&y).view(&x).i64(count).f32(self.low).f32(self.high);
        r.each("clamp", count.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Op for ClampVjp {
    fn name(&self) -> &'static str {
        "clamp_vjp"
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
        2 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x, low, high) = (launch.input_unless_in_place(0), launch.inputs[1], self.low, self.high);
        map2(launch.outputs[0], dy, Some(x), move |dy, x| if x >= low && x <= high { dy } else { 0.0 });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = dx.shape.numel();
        let params = Params::new().view_out(&dx).view(&dy).view(&x).i64(count).f32(self.low).f32(self.high);
        r.each("clamp::clamp_vjp", count.div_ceil(4), 1, params);
        Ok(())
    }
}
