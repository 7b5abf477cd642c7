//! A linear layer for every pixel of x, optionally followed by SiLU:
//! `y[n, o] = sum over i of x[n, i] w[o, i] + bias[o]`
//!
//! VJP: dx[n, i] = sum over o of dy[n, o] w[o, i]; dw[o, i] = sum over n of dy[n, o] x[n, i], that of
//! a 1x1 convolution; `dbias[o]` = sum over n of `dy[n, o]`. With SiLU there is none: that form
//! makes the time embedding of a network that is not trained, which does not depend on x_t.

use super::conv::problem::{DirectConv, Geometry, Spread, WeightOrder};
use super::conv::{ConvWeightVjp, CudaConv};
use super::pixel_sum::PixelSum;
use super::pointwise::Silu;
use super::prelude::*;
use crate::backend::cpu::math::silu;
use crate::backend::cpu::parallel::map1;
use crate::graph::record::{Graph, TensorId};

/// The linear layer. Inputs: x (n, h, w, in), weight (out, 1, 1, in), bias (1, 1, 1, out).
#[derive(Debug, Clone, Default)]
pub struct Linear {
    /// Applies SiLU to the output.
    pub silu: bool,
}

/// VJP with respect to x. Inputs: dy, weight.
#[derive(Debug, Clone)]
pub struct LinearVjp;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        let (x, w) = (inputs[0].shape, inputs[1].shape);
        expect_shape(inputs[1], Shape::new(w.n, 1, 1, x.c))?;
        expect_shape(inputs[2], Shape::vector(w.n))?;
        Ok(vec![storage(Shape { c: w.n, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        if self.silu {
            r.not_differentiable(0..3, "a linear layer with SiLU is for the time embedding; record Linear and Silu")?;
        }
        let (dout, name) = (r.dout(0)?, r.name());
        r.give_sum(1, ConvWeightVjp::LINEAR, &[dout, r.input(0)])?;
        r.give_sum(2, PixelSum { over_items: true }, &[dout])?;
        if r.wants(0) {
            let dx = r.graph.one(LinearVjp, &name, &[dout, r.input(1)])?;
            r.give(0, dx);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[0].numel() as u64 * inputs[0].c as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, weight, bias) = (launch.inputs[0], launch.inputs[1], launch.inputs[2]);
        let shapes = (launch.input_shapes[0], launch.output_shapes[0]);
        matrix_product(shapes, x, (weight, WeightOrder::Forward), Some(bias), launch.outputs[0]);
        if self.silu {
            map1(launch.outputs[0], None, silu);
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, w, bias, y) = (r.inputs[0], r.inputs[1], r.inputs[2], r.outputs[0]);
        let rows = x.shape.numel() / x.shape.c;
        if rows <= FEW_ROWS {
            let params = kernels::LinearParams {
                y: y.into(),
                x: x.into(),
                w: w.into(),
                bias: bias.into(),
                rows,
                inputs: x.shape.c,
                outputs: y.shape.c,
                silu: self.silu.into(),
            };
            r.launch(kernels::LINEAR, [y.shape.c.div_ceil(8), 1, 1], 256, 0, params);
        } else {
            CudaConv { silu: self.silu, ..CudaConv::product(x, w, Some(bias), y) }.record(r);
        }
        Ok(())
    }
}

impl Op for LinearVjp {
    fn name(&self) -> &'static str {
        "linear_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let (dy, w) = (inputs[0].shape, inputs[1].shape);
        expect_shape(inputs[1], Shape::new(dy.c, 1, 1, w.c))?;
        Ok(vec![storage(Shape { c: w.c, ..dy })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[0].numel() as u64 * inputs[0].c as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, weight) = (launch.inputs[0], launch.inputs[1]);
        let shapes = (launch.input_shapes[0], launch.output_shapes[0]);
        matrix_product(shapes, dy, (weight, WeightOrder::Transposed), None, launch.outputs[0]);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaConv { gradient: true, ..CudaConv::product(r.inputs[0], r.inputs[1], None, r.outputs[0]) }.record(r);
        Ok(())
    }
}

/// `y = x w^T + bias`, or `x w`, where every pixel of x and y is a row.
pub(super) fn matrix_product(
    (x_shape, y_shape): (Shape, Shape),
    x: &[f32],
    (weight, order): (&[f32], WeightOrder),
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let pixels = x_shape.numel() / x_shape.c;
    let in_channels = if order == WeightOrder::Forward { x_shape.c } else { y_shape.c };
    let conv = DirectConv {
        geometry: Geometry {
            n: 1,
            input: (1, pixels, x_shape.c),
            output: (1, pixels, y_shape.c),
            kernel: 1,
            stride: 1,
            spread: Spread::Dense,
            pad: 0,
        },
        x,
        weight,
        channels: 0..in_channels,
        order,
        bias,
        item_bias: None,
        addend: None,
        addend_in_out: false,
    };
    conv.run(y);
}

/// Up to this many rows, one warp per output is faster than a tiled kernel: time goes into reading
/// the weights.
const FEW_ROWS: usize = 16;

impl Graph {
    /// A linear layer with weights `name.weight` and `name.bias`.
    pub fn linear(&mut self, name: &str, x: TensorId, out: usize) -> Result<TensorId> {
        self.linear_as(Linear::default(), name, x, out)
    }

    /// A linear layer followed by SiLU, with weights `name.weight` and `name.bias`. It has a gradient
    /// only if these are trained.
    pub fn linear_silu(&mut self, name: &str, x: TensorId, out: usize) -> Result<TensorId> {
        if self.is_trained(&format!("{name}.weight")) {
            let y = self.linear(name, x, out)?;
            return self.one(Silu, &format!("{name}.silu"), &[y]);
        }
        self.linear_as(Linear { silu: true }, name, x, out)
    }

    fn linear_as(&mut self, op: Linear, name: &str, x: TensorId, out: usize) -> Result<TensorId> {
        let weight = self.weight(&format!("{name}.weight"), Shape::new(out, 1, 1, self.shape(x).c));
        let bias = self.weight(&format!("{name}.bias"), Shape::vector(out));
        self.one(op, name, &[x, weight, bias])
    }
}
