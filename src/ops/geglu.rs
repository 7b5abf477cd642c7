//! A gated linear layer (GEGLU, Shazeer 2020): `y = a gelu(b)` with `(a, b) = x w^T + bias` for
//! every pixel of x. The values a are the first half of the channels, the gates b the second half.
//!
//! VJP: da = dy gelu(b), db = dy a gelu'(b), which read a and b; then dx, dw and dbias as of a
//! linear layer whose gradient is (da, db).

use super::conv::problem::WeightOrder;
use super::conv::{ConvWeightVjp, CudaConv};
use super::linear::{LinearVjp, matrix_product};
use super::pixel_sum::PixelSum;
use super::prelude::*;
use crate::backend::cpu::math::{gelu, gelu_slope};
use crate::graph::record::{Graph, TensorId};
use rayon::prelude::*;

/// The gated linear layer. Inputs: x (n, h, w, in), weight (2c, 1, 1, in), bias (1, 1, 1, 2c); rows
/// of the weight are first the values, then the gates. Outputs: y (n, h, w, c), and (a, b)
/// (n, h, w, 2c) for the VJP.
#[derive(Debug, Clone)]
pub struct Geglu;

/// VJP with respect to (a, b). Inputs: dy (n, h, w, c), (a, b). Output (n, h, w, 2c).
#[derive(Debug, Clone)]
pub struct GegluVjp;

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        let (x, w) = (inputs[0].shape, inputs[1].shape);
        if w.n % 2 != 0 {
            return Err(format!("{} channels do not divide into values and gates", w.n));
        }
        expect_shape(inputs[1], Shape::new(w.n, 1, 1, x.c))?;
        expect_shape(inputs[2], Shape::vector(w.n))?;
        Ok(vec![storage(Shape { c: w.n / 2, ..x }), Output { name: "halves", ..storage(Shape { c: w.n, ..x }) }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, halves, name) = (r.dout(0)?, r.out(1), r.name());
        let dhalves = r.graph.one(GegluVjp, &name, &[dout, halves])?;
        r.give_sum(1, ConvWeightVjp::LINEAR, &[dhalves, r.input(0)])?;
        r.give_sum(2, PixelSum { over_items: true }, &[dhalves])?;
        if r.wants(0) {
            let dx = r.graph.one(LinearVjp, &name, &[dhalves, r.input(1)])?;
            r.give(0, dx);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[1].numel() as u64 * inputs[0].c as u64 + 9 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let c = launch.output_shapes[0].c;
        let (x, weight, bias) = (launch.inputs[0], launch.inputs[1], launch.inputs[2]);
        let [y, halves] = &mut launch.outputs[..] else { unreachable!("two outputs") };
        let shapes = (launch.input_shapes[0], launch.output_shapes[1]);
        matrix_product(shapes, x, (weight, WeightOrder::Forward), Some(bias), halves);
        y.par_chunks_mut(c).zip(halves.par_chunks(2 * c)).with_min_len(16).for_each(|(y, halves)| {
            let (values, gates) = halves.split_at(c);
            y.iter_mut().zip(values.iter().zip(gates)).for_each(|(y, (&a, &b))| *y = a * gelu(b, false));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaConv {
            gated: Some(r.outputs[0]),
            ..CudaConv::product(r.inputs[0], r.inputs[1], Some(r.inputs[2]), r.outputs[1])
        }
        .record(r);
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
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(1, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
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
        let params = kernels::GegluVjpParams { dx: dx.into(), dy: dy.into(), x: x.into(), pixels, channels: c };
        r.each(kernels::GEGLU_VJP, pixels * c.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Graph {
    /// A gated linear layer with `out` output channels; its weights are `name.weight` and
    /// `name.bias`.
    pub fn geglu(&mut self, name: &str, x: TensorId, out: usize) -> Result<TensorId> {
        let weight = self.weight(&format!("{name}.weight"), Shape::new(2 * out, 1, 1, self.shape(x).c));
        let bias = self.weight(&format!("{name}.bias"), Shape::vector(2 * out));
        Ok(self.add(Geglu, name, &[x, weight, bias])?[0])
    }
}
