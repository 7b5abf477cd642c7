//! Convolution 3x3 (stride 1 or 2, padding 1) or 1x1 in N, H, W, C.
//!
//! `y[p, o] = sum over tap, i of x[stride p + tap - pad, i] w[o, tap, i] + bias[o] (+ residual[p, o])`
//! VJP: dx[q, i] = sum over (p, tap) with stride p + tap - pad = q, and o, of dy[p, o] w[o, tap, i]:
//! again a convolution, of dy spread out by the stride, with w flipped in space and its channels exchanged.
//! dresidual = dy, the same tensor. The data gradient can add to a gradient that is already there.

use super::*;
use crate::backend::cpu::direct_conv::{DirectConv, Geometry, WeightOrder};
use crate::graph::{Graph, TensorId};

/// The convolution. Inputs: x, weight (cout, kernel, kernel, cin), bias (1, 1, 1, cout), then the residual if any.
#[derive(Debug, Clone)]
pub struct Conv {
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// A fourth input is added to the output.
    pub residual: bool,
}

/// The data gradient. Inputs: dy, weight, then the gradient to add to if any.
#[derive(Debug, Clone)]
pub struct ConvVjp {
    /// Kernel of the forward convolution.
    pub kernel: usize,
    /// Stride of the forward convolution.
    pub stride: usize,
    /// Rows and columns of the forward input.
    pub size: (usize, usize),
}

fn multiply_adds(pixels: Shape, weight: Shape) -> u64 {
    2 * (pixels.n * pixels.h * pixels.w) as u64 * weight.numel() as u64
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3 + self.residual as usize)?;
        let (x, w) = (inputs[0].shape, inputs[1].shape);
        if !matches!((self.kernel, self.stride), (1, 1) | (3, 1) | (3, 2)) {
            return Err(format!("kernel {} with stride {} is not supported", self.kernel, self.stride));
        }
        expect_shape(inputs[1], Shape::new(w.n, self.kernel, self.kernel, x.c))?;
        expect_shape(inputs[2], Shape::vector(w.n))?;
        let out = Shape::new(x.n, x.h.div_ceil(self.stride), x.w.div_ceil(self.stride), w.n);
        if self.residual {
            expect_shape(inputs[3], out)?;
        }
        Ok(vec![storage(out)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..3, "weights are fixed")?;
        let (dout, name, x, weight) = (r.dout(0)?, r.name(), r.shape(0), r.input(1));
        if r.wants(0) {
            let mut inputs = vec![dout, weight];
            inputs.extend(r.accumulate(0));
            let op = ConvVjp { kernel: self.kernel, stride: self.stride, size: (x.h, x.w) };
            let dx = r.graph.one(op, &name, &inputs)?;
            r.give(0, dx);
        }
        if self.residual && r.wants(3) {
            r.give(3, dout);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        multiply_adds(outputs[0], inputs[1])
    }
    fn in_place(&self) -> &'static [usize] {
        if self.residual { &[3] } else { &[] }
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (x, y) = (launch.input_shapes[0], launch.output_shapes[0]);
        let conv = DirectConv {
            geometry: Geometry {
                n: x.n,
                input: (x.h, x.w, x.c),
                output: (y.h, y.w, y.c),
                kernel: self.kernel,
                stride: self.stride,
                dilation: 1,
            },
            x: launch.inputs[0],
            weight: launch.inputs[1],
            order: WeightOrder::Forward,
            bias: Some(launch.inputs[2]),
            addend: if self.residual { launch.input_unless_in_place(3) } else { None },
            addend_in_out: launch.in_place == Some(3),
        };
        conv.run(launch.outputs[0]);
    }
}

impl Op for ConvVjp {
    fn name(&self) -> &'static str {
        "conv_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if inputs.len() != 3 {
            expect_inputs(inputs, 2)?;
        }
        let (dy, w) = (inputs[0].shape, inputs[1].shape);
        let (h, width) = self.size;
        expect_shape(inputs[0], Shape::new(dy.n, h.div_ceil(self.stride), width.div_ceil(self.stride), w.n))?;
        let dx = Shape::new(dy.n, h, width, w.c);
        if let Some(sum) = inputs.get(2) {
            expect_shape(sum, dx)?;
        }
        Ok(vec![storage(dx)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        multiply_adds(inputs[0], inputs[1])
    }
    fn in_place(&self) -> &'static [usize] {
        &[2]
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (dy, dx) = (launch.input_shapes[0], launch.output_shapes[0]);
        let conv = DirectConv {
            geometry: Geometry {
                n: dy.n,
                input: (dy.h, dy.w, dy.c),
                output: (dx.h, dx.w, dx.c),
                kernel: self.kernel,
                stride: 1,
                dilation: self.stride,
            },
            x: launch.inputs[0],
            weight: launch.inputs[1],
            order: WeightOrder::Transposed,
            bias: None,
            addend: if launch.inputs.len() == 3 { launch.input_unless_in_place(2) } else { None },
            addend_in_out: launch.in_place == Some(2),
        };
        conv.run(launch.outputs[0]);
    }
}

impl Graph {
    /// The convolution whose weights are `name.weight` and `name.bias`; `residual` is added to its output.
    pub fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        (kernel, stride): (usize, usize),
        cout: usize,
        residual: Option<TensorId>,
    ) -> Result<TensorId> {
        let cin = self.shape(x).c;
        let weight = self.weight(&format!("{name}.weight"), Shape::new(cout, kernel, kernel, cin));
        let bias = self.weight(&format!("{name}.bias"), Shape::vector(cout));
        let mut inputs = vec![x, weight, bias];
        inputs.extend(residual);
        self.one(Conv { kernel, stride, residual: residual.is_some() }, name, &inputs)
    }
}
