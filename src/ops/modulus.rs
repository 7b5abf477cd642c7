//! The modulus of complex values: `y = |u|`, `u = a + i b`
//!
//! A complex image has all real parts in its first channels, then all imaginary parts.
//! VJP: da = dy a / |u| and db = dy b / |u|, which read u; 0 where u = 0, a subgradient.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// The modulus. Input: u (n, h, w, 2 c). Output (n, h, w, c).
#[derive(Debug, Clone)]
pub struct Modulus;

/// Its VJP. Inputs: dy (n, h, w, c), u (n, h, w, 2 c).
#[derive(Debug, Clone)]
pub struct ModulusVjp;

impl Op for Modulus {
    fn name(&self) -> &'static str {
        "modulus"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let u = inputs[0].shape;
        match u.c % 2 {
            0 => Ok(vec![single("", Shape { c: u.c / 2, ..u })]),
            _ => Err(format!("a complex image has an even number of channels, u has {}", u.c)),
        }
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, u, name) = (r.dout(0)?, r.input(0), r.name());
        let du = r.graph.one(ModulusVjp, &name, &[dout, u])?;
        r.give(0, du);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (u, c) = (launch.inputs[0], launch.output_shapes[0].c);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (k, y) in (at..).zip(out) {
                let re = k / c * 2 * c + k % c;
                *y = u[re].hypot(u[re + c]);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (u, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let params = kernels::ModulusParams { y: y.into(), u: u.into(), count, channels: y.shape.c };
        r.each(kernels::MODULUS, count, 1, params);
        Ok(())
    }
}

impl Op for ModulusVjp {
    fn name(&self) -> &'static str {
        "modulus_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let u = inputs[1].shape;
        expect_shape(inputs[0], Shape { c: u.c / 2, ..u })?;
        Ok(vec![single("", u)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        3 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, u, c) = (launch.inputs[0], launch.inputs[1], launch.input_shapes[0].c);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (k, du) in (at..).zip(out) {
                let (pixel, channel) = (k / (2 * c), k % c);
                let re = pixel * 2 * c + channel;
                let modulus = u[re].hypot(u[re + c]);
                *du = if modulus > 0.0 { dy[pixel * c + channel] * u[k] / modulus } else { 0.0 };
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, u, du) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = du.shape.numel();
        let params =
            kernels::ModulusVjpParams { du: du.into(), dy: dy.into(), u: u.into(), count, channels: dy.shape.c };
        r.each(kernels::MODULUS_VJP, count, 1, params);
        Ok(())
    }
}
