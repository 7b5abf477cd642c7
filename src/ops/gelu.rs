//! `y = x Phi(x)` with the normal distribution function Phi (exact, by erf), or the quick form `y = x s(1.702 x)`
//!
//! VJP: y' = Phi(x) + x phi(x) with the density phi; of the quick form y' = s + 1.702 x s (1 - s) with s = s(1.702 x).
//! The gated form (GEGLU) has y = a gelu(b) for the two halves (a, b) of the channels: da = dy gelu(b), db = dy a gelu'(b).
//! Both need x.

use super::*;
use crate::backend::cpu::parallel::{map1, map2, sigmoid};
use rayon::prelude::*;

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

/// The gated form. Input: (n, h, w, 2c), the values and then the gates; output: (n, h, w, c).
#[derive(Debug, Clone)]
pub struct Geglu;

/// Its VJP. Inputs: dy (n, h, w, c), x (n, h, w, 2c).
#[derive(Debug, Clone)]
pub struct GegluVjp;

fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu(x: f32, quick: bool) -> f32 {
    if quick { x * sigmoid(1.702 * x) } else { x * phi(x) }
}

fn gelu_slope(x: f32, quick: bool) -> f32 {
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
    fn run_cpu(&self, launch: &mut Launch<'_>) {
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
    fn run_cpu(&self, launch: &mut Launch<'_>) {
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

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if x.c % 2 != 0 {
            return Err(format!("{} channels do not divide into values and gates", x.c));
        }
        Ok(vec![storage(Shape { c: x.c / 2, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.input(0));
        let dx = r.graph.one(GegluVjp, &name, &[dout, x])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        9 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (c, x) = (launch.output_shapes[0].c, launch.inputs[0]);
        launch.outputs[0].par_chunks_mut(c).zip(x.par_chunks(2 * c)).with_min_len(16).for_each(|(y, x)| {
            let (values, gates) = x.split_at(c);
            y.iter_mut().zip(values.iter().zip(gates)).for_each(|(y, (&a, &b))| *y = a * gelu(b, false));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let (pixels, c) = (y.shape.numel() / y.shape.c, y.shape.c);
        let params = Params::new().view_out(&y).view(&x).i64(pixels).i32s(&[c, 0]);
        r.each("gelu::geglu", pixels * c.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Op for GegluVjp {
    fn name(&self) -> &'static str {
        "geglu_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let dy = inputs[0].shape;
        expect_shape(inputs[1], Shape { c: 2 * dy.c, ..dy })?;
        Ok(vec![storage(inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        20 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[1]
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (c, dy) = (launch.input_shapes[0].c, launch.inputs[0]);
        let (x, dx) = (launch.input_unless_in_place(1), &mut *launch.outputs[0]);
        if let Some(x) = x {
            dx.copy_from_slice(x);
        }
        dx.par_chunks_mut(2 * c).zip(dy.par_chunks(c)).with_min_len(16).for_each(|(dx, dy)| {
            let (values, gates) = dx.split_at_mut(c);
            for ((a, b), dy) in values.iter_mut().zip(gates).zip(dy) {
                (*a, *b) = (dy * gelu(*b, false), dy * *a * gelu_slope(*b, false));
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let (pixels, c) = (dy.shape.numel() / dy.shape.c, dy.shape.c);
        let params = Params::new().view_out(&dx).view(&dy).view(&x).i64(pixels).i32s(&[c, 0]);
        r.each("gelu::geglu_vjp", pixels * c.div_ceil(4), 1, params);
        Ok(())
    }
}
