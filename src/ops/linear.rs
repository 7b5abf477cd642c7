//! `y[n, o] = sum over i of x[n, i] w[o, i] + bias[o]`, for every row of x
//!
//! VJP: dx[n, i] = sum over o of dy[n, o] w[o, i].

use super::conv::CudaConv;
use super::*;
use crate::backend::cpu::direct_conv::{DirectConv, Geometry, Spread, WeightOrder};
use crate::backend::cuda::Operand;
use crate::graph::{Graph, TensorId};

/// The linear layer. Inputs: x, weight (out, 1, 1, in), bias (1, 1, 1, out).
#[derive(Debug, Clone)]
pub struct Linear;

/// Its VJP. Inputs: dy, weight.
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
        r.not_differentiable(1..3, "weights are fixed")?;
        let (dout, weight, name) = (r.dout(0)?, r.input(1), r.name());
        let dx = r.graph.one(LinearVjp, &name, &[dout, weight])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[0].numel() as u64 * inputs[0].c as u64
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        matrix_product(launch, WeightOrder::Forward, Some(launch.inputs[2]));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, w, bias, y) = (r.inputs[0], r.inputs[1], r.inputs[2], r.outputs[0]);
        let rows = x.shape.numel() / x.shape.c;
        if rows <= FEW_ROWS {
            let params = Params::new().view_out(&y).view(&x).view(&w).view(&bias);
            let params = params.i32s(&[rows, x.shape.c, y.shape.c]);
            r.launch("linear", [y.shape.c.div_ceil(8), 1, 1], 256, 0, params);
        } else {
            record_product(r, Some(bias), false);
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
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        matrix_product(launch, WeightOrder::Transposed, None);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record_product(r, None, true);
        Ok(())
    }
}

fn matrix_product(launch: &mut Launch<'_>, order: WeightOrder, bias: Option<&[f32]>) {
    let (x, y) = (launch.input_shapes[0], launch.output_shapes[0]);
    let conv = DirectConv {
        geometry: Geometry {
            n: 1,
            input: (1, x.n * x.h * x.w, x.c),
            output: (1, y.n * y.h * y.w, y.c),
            kernel: 1,
            stride: 1,
            spread: Spread::Dense,
            pad: 0,
        },
        x: launch.inputs[0],
        weight: launch.inputs[1],
        channels: 0..launch.input_shapes[1].c,
        order,
        bias,
        item_bias: None,
        addend: None,
        addend_in_out: false,
    };
    conv.run(launch.outputs[0]);
}

/// Up to how many rows a warp per output is the better kernel: the weights are all that is read.
const FEW_ROWS: usize = 16;

/// Rows as the pixels of one image.
fn as_pixels(o: Operand) -> Operand {
    Operand { shape: Shape::new(1, 1, o.shape.numel() / o.shape.c, o.shape.c), ..o }
}

fn record_product(r: &mut Recorder<'_>, bias: Option<Operand>, gradient: bool) {
    let (x, weight, y) = (as_pixels(r.inputs[0]), r.inputs[1], as_pixels(r.outputs[0]));
    CudaConv {
        x,
        second: None,
        weight,
        first_channel: 0,
        bias,
        item_bias: None,
        addend: None,
        y,
        kernel: 1,
        stride: 1,
        spread: Spread::Dense,
        pad: 0,
        gradient,
    }
    .record(r);
}

impl Graph {
    /// The linear layer whose weights are `name.weight` and `name.bias`.
    pub fn linear(&mut self, name: &str, x: TensorId, out: usize) -> Result<TensorId> {
        let weight = self.weight(&format!("{name}.weight"), Shape::new(out, 1, 1, self.shape(x).c));
        let bias = self.weight(&format!("{name}.bias"), Shape::vector(out));
        self.one(Linear, name, &[x, weight, bias])
    }
}
