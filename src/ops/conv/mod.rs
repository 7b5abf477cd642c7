//! Convolution with a small square kernel and stride 1 or 2, in N, H, W, C order.
//!
//! `y[p, o] = sum over tap, i of x[stride p + tap - pad, i] w[o, tap, i]
//! (+ bias[o]) (+ item_bias[n, o]) (+ addend[p, o])`
//!
//! x may be doubled by repeating its pixels, and a second image's channels may follow those of x.
//! Neither the doubled nor the concatenated image is stored.
//!
//! VJP: `dx[q, i] = sum over o, and over (p, tap) with stride p + tap - pad = q, of
//! dy[p, o] w[o, tap, i]`
//! This is a convolution again: dy is spread out by the stride, w is flipped in space with input
//! and output channels exchanged, and the padding is kernel - 1 - pad. For a doubled x, dx is the
//! sum of that gradient over 2x2 blocks. With a second image, each image has its own gradient from
//! its channels of w. Unless x is doubled, the data gradient can add to an existing gradient.
//! daddend = dy, the same tensor. dw is in weight_vjp.rs; the gradients of bias and item bias are
//! the sums of dy over pixels.

mod cpu;
mod inputs;
mod launch;
pub(crate) mod problem;
mod variants;
mod vjp;
mod weight_launch;
mod weight_vjp;
mod wgmma;

use super::pixel_sum::PixelSum;
use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use crate::tensor::Precision;
pub use inputs::{ConvExtra, ConvInputs};
pub(crate) use launch::CudaConv;
pub use problem::Padding;
use problem::{DirectConv, Geometry, Spread, WeightOrder, multiply_adds};
use std::ops::Range;
pub(in crate::ops) use variants::VARIANTS;
pub use vjp::ConvVjp;
pub(in crate::ops) use weight_launch::WEIGHT_VARIANTS;
pub use weight_vjp::ConvWeightVjp;

/// The convolution. Its inputs are [`ConvInputs`].
#[derive(Debug, Clone)]
pub struct Conv {
    /// Kernel size. 1 and 5 have stride 1, 3 has stride 1 or 2, and 4 has stride 2.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Where zero padding is added.
    pub padding: Padding,
    /// x is doubled by nearest neighbour. Only for 3x3 with stride 1.
    pub doubled: bool,
    /// The op has an input that is added to every pixel.
    pub bias: bool,
    /// The op has an input that is added to every pixel of its batch item: the time embedding.
    pub item_bias: bool,
    /// The op has an input that is added to the output.
    pub addend: bool,
    /// The op has an input `second`, whose channels follow those of x. Nothing is concatenated in
    /// memory.
    pub second: bool,
    /// The output is f32 whatever the storage type: for the output of a network.
    pub single: bool,
}

impl Conv {
    /// A convolution with a bias and no other options.
    pub const fn new(kernel: usize, stride: usize) -> Conv {
        Conv {
            kernel,
            stride,
            padding: Padding::Around,
            doubled: false,
            bias: true,
            item_bias: false,
            addend: false,
            second: false,
            single: false,
        }
    }

    /// The last convolution of a network: 3x3 with an f32 output.
    pub const LAST: Conv = Conv { single: true, ..Conv::new(3, 1) };

    /// Number of inputs.
    fn count(&self) -> usize {
        2 + [self.bias, self.item_bias, self.addend, self.second].iter().filter(|&&is| is).count()
    }

    /// The inputs of a node by name.
    ///
    /// # Panics
    ///
    /// If there are fewer inputs than this convolution has.
    pub fn inputs<T: Copy>(&self, all: &[T]) -> ConvInputs<T> {
        let mut left = all.iter().copied();
        let mut next = || left.next().expect("an input for each that the convolution has");
        ConvInputs {
            x: next(),
            weight: next(),
            bias: self.bias.then(&mut next),
            item_bias: self.item_bias.then(&mut next),
            addend: self.addend.then(&mut next),
            second: self.second.then(&mut next),
        }
    }

    /// The position of each input of a node.
    pub fn places(&self) -> ConvInputs<usize> {
        self.inputs(&[0, 1, 2, 3, 4, 5])
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
        expect_inputs(inputs, self.count())?;
        let ConvInputs { x, weight, bias, item_bias, addend, second } = self.inputs(inputs);
        let (mut x, w) = (x.shape, weight.shape);
        if let Some(second) = second {
            expect_shape(second, Shape { c: second.shape.c, ..x })?;
            x.c += second.shape.c;
        }
        if !matches!((self.kernel, self.stride), (1, 1) | (3, 1) | (3, 2) | (4, 2) | (5, 1)) {
            return Err(format!("kernel {} with stride {} is not supported", self.kernel, self.stride));
        }
        if self.kernel == 4 && (x.h % 2 != 0 || x.w % 2 != 0) {
            return Err(format!("a 4x4 kernel is for even sizes, not {x}"));
        }
        expect_shape(weight, Shape::new(w.n, self.kernel, self.kernel, x.c))?;
        if let Some(bias) = bias {
            expect_shape(bias, Shape::vector(w.n))?;
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
        if let Some(item_bias) = item_bias {
            expect_shape(item_bias, Shape::rows(x.n, w.n))?;
        }
        if let Some(addend) = addend {
            expect_shape(addend, out)?;
        }
        Ok(vec![if self.single { single("", out) } else { storage(out) }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let at = self.places();
        if self.doubled || self.second {
            r.not_differentiable([at.weight], "the weight of a doubled or of a second image is not trained")?;
        }
        let (dout, name, x, weight) = (r.dout(0)?, r.name(), r.shape(at.x), r.input(at.weight));
        let Conv { kernel, stride, padding, doubled, .. } = *self;
        r.give_sum(at.weight, ConvWeightVjp { kernel, stride, padding }, &[dout, r.input(at.x)])?;
        for (i, over_items) in [(at.bias, true), (at.item_bias, false)] {
            if let Some(i) = i {
                r.give_sum(i, PixelSum { over_items }, &[dout])?;
            }
        }
        let all = r.shape(at.weight).c;
        for (i, channels) in [(Some(at.x), 0..x.c), (at.second, x.c..all)] {
            let Some(i) = i.filter(|&i| r.wants(i)) else { continue };
            let mut inputs = vec![dout, weight];
            if !self.doubled {
                inputs.extend(r.accumulate(i));
            }
            let single = r.graph.tensor(r.input(i)).precision == Precision::Single && !self.doubled;
            let vjp = ConvVjp { kernel, stride, padding, size: (x.h, x.w), doubled, channels, single };
            let dx = r.graph.one(vjp, &name, &inputs)?;
            r.give(i, dx);
        }
        if let Some(i) = at.addend.filter(|&i| r.wants(i)) {
            r.give(i, dout);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        multiply_adds(outputs[0], inputs[1])
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        match self.places().addend {
            Some(2) => &[(2, 0)],
            Some(3) => &[(3, 0)],
            Some(_) => &[(4, 0)],
            None => &[],
        }
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (shapes, y, at) = (self.inputs(&launch.input_shapes), launch.output_shapes[0], self.places());
        let ConvInputs { x, weight, bias, item_bias, second, .. } = self.inputs(&launch.inputs);
        let (n, h, w, c) = (shapes.x.n, shapes.x.h, shapes.x.w, shapes.x.c);
        let conv = |x, channels: Range<usize>| DirectConv {
            geometry: Geometry {
                n,
                input: (h, w, channels.len()),
                output: (y.h, y.w, y.c),
                kernel: self.kernel,
                stride: self.stride,
                spread: self.spread(),
                pad: self.padding.before(self.kernel),
            },
            x,
            weight,
            channels,
            order: WeightOrder::Forward,
            bias: None,
            item_bias: None,
            addend: None,
            addend_in_out: true,
        };
        let addend = at.addend.and_then(|i| launch.input_unless_in_place(i));
        let addend_in_out = self.addend && launch.in_place == at.addend;
        let of_x = DirectConv { bias, item_bias, addend, addend_in_out, ..conv(x, 0..c) };
        of_x.run(launch.outputs[0]);
        if let Some(second) = second {
            conv(second, c..shapes.weight.c).run(launch.outputs[0]);
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let ConvInputs { x, weight, bias, item_bias, addend, second } = self.inputs(&r.inputs);
        CudaConv {
            x,
            second,
            weight,
            first_channel: 0,
            bias,
            item_bias,
            addend,
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
    /// A convolution with weights `name.weight` and `name.bias`; `addend` is added to its output.
    pub fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        (kernel, stride): (usize, usize),
        cout: usize,
        addend: Option<TensorId>,
    ) -> Result<TensorId> {
        self.conv_as(Conv::new(kernel, stride), name, x, cout, ConvExtra { addend, ..ConvExtra::NONE })
    }

    /// `op` with weight `name.weight`, bias `name.bias` if it has one, and the further inputs in
    /// `extra`.
    pub fn conv_as(
        &mut self,
        op: Conv,
        name: &str,
        x: TensorId,
        cout: usize,
        extra: ConvExtra<TensorId>,
    ) -> Result<TensorId> {
        let ConvExtra { item_bias, addend, second } = extra;
        let cin = self.shape(x).c + second.map_or(0, |s| self.shape(s).c);
        let weight = self.weight(&format!("{name}.weight"), Shape::new(cout, op.kernel, op.kernel, cin));
        let bias = op.bias.then(|| self.weight(&format!("{name}.bias"), Shape::vector(cout)));
        let inputs = ConvInputs { x, weight, bias, item_bias, addend, second };
        let has = |input: Option<TensorId>| input.is_some();
        let op = Conv { item_bias: has(item_bias), addend: has(addend), second: has(second), ..op };
        self.one(op, name, &inputs.to_vec())
    }
}
