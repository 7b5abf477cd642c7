//! Convolution 3x3 (stride 1 or 2) or 1x1 in N, H, W, C.
//!
//! `y[p, o] = sum over tap, i of x[stride p + tap - pad, i] w[o, tap, i] (+ bias[o]) (+ item_bias[n, o]) (+ residual[p, o])`,
//! x as it is or doubled by repeating its pixels, one tensor or two whose channels follow each other; nothing is made of these.
//! VJP: dx[q, i] = sum over (p, tap) with stride p + tap - pad = q, and o, of dy[p, o] w[o, tap, i]:
//! again a convolution, of dy spread out by the stride, with w flipped in space, its channels exchanged, and padding
//! kernel - 1 - pad; of a doubled x the sums of 2x2 of that.
//! dresidual = dy, the same tensor. The data gradient can add to a gradient that is already there. Of two sources each has its own, with
//! its channels of w.

mod cpu;
mod launch;
pub(crate) mod problem;
mod vjp;
mod wgmma;

use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use crate::tensor::Precision;
pub(crate) use launch::CudaConv;
pub use problem::Padding;
use problem::{DirectConv, Geometry, Spread, WeightOrder, multiply_adds};
use std::ops::Range;
pub use vjp::ConvVjp;

/// The convolution. Inputs: x, weight (cout, kernel, kernel, cin), then bias (1, 1, 1, cout), item bias (n, 1, 1, cout), residual and
/// the second source if any.
#[derive(Debug, Clone)]
pub struct Conv {
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Where zeros are added.
    pub padding: Padding,
    /// x is read as its nearest-neighbour doubling. For 3x3 with stride 1.
    pub doubled: bool,
    /// An input is added to every pixel.
    pub bias: bool,
    /// An input is added to every pixel of its item: the time embedding. It has no gradient.
    pub item_bias: bool,
    /// An input is added to the output.
    pub residual: bool,
    /// A second source is the last input: its channels come after those of x, without a concatenation being made.
    pub joined: bool,
    /// The output is f32 whatever the storage type: what leaves a network.
    pub full: bool,
}

impl Conv {
    /// With a bias and nothing else.
    pub const fn new(kernel: usize, stride: usize) -> Conv {
        Conv {
            kernel,
            stride,
            padding: Padding::Around,
            doubled: false,
            bias: true,
            item_bias: false,
            residual: false,
            joined: false,
            full: false,
        }
    }

    /// 3x3, in f32: the last one of a network.
    pub const LAST: Conv = Conv { full: true, ..Conv::new(3, 1) };

    /// Number of the input that is the item bias, if there is one.
    fn item_bias_input(&self) -> Option<usize> {
        self.item_bias.then_some(2 + self.bias as usize)
    }

    /// Number of the input that is the residual, if there is one.
    fn residual_input(&self) -> Option<usize> {
        self.residual.then_some(2 + self.bias as usize + self.item_bias as usize)
    }

    /// Number of the input that is the second source, if there is one.
    fn second_input(&self) -> Option<usize> {
        self.joined.then_some(2 + self.bias as usize + self.item_bias as usize + self.residual as usize)
    }

    fn spread(&self) -> Spread {
        if self.doubled { Spread::Repeat } else { Spread::Dense }
    }
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        let added = [self.bias, self.item_bias, self.residual, self.joined];
        expect_inputs(inputs, 2 + added.iter().filter(|&&is| is).count())?;
        let (mut x, w) = (inputs[0].shape, inputs[1].shape);
        if let Some(i) = self.second_input() {
            let second = inputs[i].shape.c;
            expect_shape(inputs[i], Shape { c: second, ..x })?;
            x.c += second;
        }
        if !matches!((self.kernel, self.stride), (1, 1) | (3, 1) | (3, 2)) {
            return Err(format!("kernel {} with stride {} is not supported", self.kernel, self.stride));
        }
        expect_shape(inputs[1], Shape::new(w.n, self.kernel, self.kernel, x.c))?;
        if self.bias {
            expect_shape(inputs[2], Shape::vector(w.n))?;
        }
        if self.padding == Padding::After && ((self.kernel, self.stride) != (3, 2) || x.h % 2 + x.w % 2 != 0) {
            return Err(format!("padding after the image is for 3x3 with stride 2 on even sizes, not {x}"));
        }
        if self.doubled && (self.kernel, self.stride) != (3, 1) {
            return Err("only a 3x3 convolution with stride 1 doubles its input".into());
        }
        let out = match self.doubled {
            true => Shape::new(x.n, 2 * x.h, 2 * x.w, w.n),
            false => Shape::new(x.n, x.h.div_ceil(self.stride), x.w.div_ceil(self.stride), w.n),
        };
        if let Some(i) = self.item_bias_input() {
            expect_shape(inputs[i], Shape::rows(x.n, w.n))?;
        }
        if let Some(i) = self.residual_input() {
            expect_shape(inputs[i], out)?;
        }
        Ok(vec![if self.full { full("", out) } else { storage(out) }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..2 + self.bias as usize, "weights are fixed")?;
        r.not_differentiable(self.item_bias_input(), "the time embedding does not depend on x")?;
        let (dout, name, x, weight) = (r.dout(0)?, r.name(), r.shape(0), r.input(1));
        let all = r.shape(1).c;
        for (i, channels) in [(Some(0), 0..x.c), (self.second_input(), x.c..all)] {
            let Some(i) = i.filter(|&i| r.wants(i)) else { continue };
            let mut inputs = vec![dout, weight];
            if !self.doubled {
                inputs.extend(r.accumulate(i));
            }
            let full = r.graph.tensor(r.input(i)).precision == Precision::Full && !self.doubled;
            let Conv { kernel, stride, padding, doubled, .. } = *self;
            let vjp = ConvVjp { kernel, stride, padding, size: (x.h, x.w), doubled, channels, full };
            let dx = r.graph.one(vjp, &name, &inputs)?;
            r.give(i, dx);
        }
        if let Some(i) = self.residual_input().filter(|&i| r.wants(i)) {
            r.give(i, dout);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        multiply_adds(outputs[0], inputs[1])
    }
    fn in_place(&self) -> &'static [usize] {
        match self.residual_input() {
            Some(2) => &[2],
            Some(3) => &[3],
            Some(_) => &[4],
            None => &[],
        }
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, y) = (launch.input_shapes[0], launch.output_shapes[0]);
        let all = launch.input_shapes[1].c;
        let conv = |input: usize, channels: Range<usize>| DirectConv {
            geometry: Geometry {
                n: x.n,
                input: (x.h, x.w, channels.len()),
                output: (y.h, y.w, y.c),
                kernel: self.kernel,
                stride: self.stride,
                spread: self.spread(),
                pad: self.padding.before(self.kernel),
            },
            x: launch.inputs[input],
            weight: launch.inputs[1],
            channels,
            order: WeightOrder::Forward,
            bias: None,
            item_bias: None,
            addend: None,
            addend_in_out: true,
        };
        let first = DirectConv {
            bias: self.bias.then(|| launch.inputs[2]),
            item_bias: self.item_bias_input().map(|i| launch.inputs[i]),
            addend: self.residual_input().and_then(|i| launch.input_unless_in_place(i)),
            addend_in_out: self.residual && launch.in_place == self.residual_input(),
            ..conv(0, 0..x.c)
        };
        first.run(launch.outputs[0]);
        if let Some(i) = self.second_input() {
            conv(i, x.c..all).run(launch.outputs[0]);
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaConv {
            x: r.inputs[0],
            second: self.second_input().map(|i| r.inputs[i]),
            weight: r.inputs[1],
            first_channel: 0,
            bias: self.bias.then(|| r.inputs[2]),
            item_bias: self.item_bias_input().map(|i| r.inputs[i]),
            addend: self.residual_input().map(|i| r.inputs[i]),
            y: r.outputs[0],
            gated: None,
            silu: false,
            kernel: self.kernel,
            stride: self.stride,
            spread: self.spread(),
            pad: self.padding.before(self.kernel),
            gradient: false,
        }
        .record(r);
        Ok(())
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
        let op = Conv { residual: residual.is_some(), ..Conv::new(kernel, stride) };
        self.conv_as(op, name, x, cout, residual.as_slice())
    }

    /// `op` with the weight `name.weight`, the bias `name.bias` if it has one, and what else it reads: item bias, residual, second source.
    pub fn conv_as(&mut self, op: Conv, name: &str, x: TensorId, cout: usize, added: &[TensorId]) -> Result<TensorId> {
        let second = added.last().filter(|_| op.joined);
        let cin = self.shape(x).c + second.map_or(0, |&s| self.shape(s).c);
        let shape = Shape::new(cout, op.kernel, op.kernel, cin);
        let mut inputs = vec![x, self.weight(&format!("{name}.weight"), shape)];
        if op.bias {
            inputs.push(self.weight(&format!("{name}.bias"), Shape::vector(cout)));
        }
        inputs.extend(added);
        self.one(op, name, &inputs)
    }
}
