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
mod wgmma;

use super::prelude::*;
use super::resample::pool;
use crate::graph::record::{Graph, TensorId};
use crate::tensor::Precision;
pub(crate) use launch::CudaConv;
use problem::{DirectConv, Geometry, Spread, WeightOrder};
use std::ops::Range;

/// Where a convolution adds zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// `kernel / 2` on every side.
    #[default]
    Around,
    /// One row below and one column to the right of an even image, for stride 2: the down-sampling of the latent encoders.
    After,
}

impl Padding {
    /// Zeros before the first pixel.
    fn before(self, kernel: usize) -> usize {
        if self == Padding::Around { kernel / 2 } else { 0 }
    }
}

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

/// The data gradient. Inputs: dy, weight, then the gradient to add to if any.
#[derive(Debug, Clone)]
pub struct ConvVjp {
    /// Kernel of the forward convolution.
    pub kernel: usize,
    /// Stride of the forward convolution.
    pub stride: usize,
    /// Padding of the forward convolution.
    pub padding: Padding,
    /// Rows and columns of the forward input, before it is doubled.
    pub size: (usize, usize),
    /// The forward convolution saw each pixel of its input four times.
    pub doubled: bool,
    /// Input channels of the weight that belong to this source; the gradient has these channels.
    pub channels: Range<usize>,
    /// The gradient is f32, as x is.
    pub full: bool,
}

fn multiply_adds(pixels: Shape, weight: Shape) -> u64 {
    2 * (pixels.n * pixels.h * pixels.w) as u64 * weight.numel() as u64
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

impl ConvVjp {
    fn spread(&self) -> Spread {
        match (self.stride, self.doubled) {
            (2, _) => Spread::Zeros,
            (_, true) => Spread::Repeat,
            _ => Spread::Dense,
        }
    }
}

impl ConvVjp {
    /// The gradient `dx` by an input that is seen as it is.
    fn direct<'a>(&self, x: &'a [f32], dy: Shape, weight: &'a [f32], dx: Shape) -> DirectConv<'a> {
        DirectConv {
            geometry: Geometry {
                n: dy.n,
                input: (dy.h, dy.w, dy.c),
                output: (dx.h, dx.w, dx.c),
                kernel: self.kernel,
                stride: 1,
                spread: if self.doubled { Spread::Dense } else { self.spread() },
                pad: self.kernel - 1 - self.padding.before(self.kernel),
            },
            x,
            weight,
            channels: self.channels.clone(),
            order: WeightOrder::Transposed,
            bias: None,
            item_bias: None,
            addend: None,
            addend_in_out: false,
        }
    }

    /// The gradient by a doubled image and the sums of its 2x2 blocks, in bands of about `rows` rows: the plan has no room for the whole.
    fn run_doubled(&self, x: &[f32], dy: Shape, weight: &[f32], out: &mut [f32], dx: Shape, rows: usize) {
        // Rows beside a band that its convolution sees; even, so that a band's pixels fall into the same Winograd tiles as the image's.
        const BESIDE: usize = 2;
        let (rows, row, small_row) = (rows.next_multiple_of(2), dy.w * dy.c, dx.w * dx.c);
        let mut wide = Vec::new();
        for (x, out) in x.chunks(dy.item()).zip(out.chunks_mut(dx.item())) {
            for from in (0..dy.h).step_by(rows) {
                let to = (from + rows).min(dy.h);
                let (first, last) = (from.saturating_sub(BESIDE), (to + BESIDE).min(dy.h));
                let band = Shape { n: 1, h: last - first, ..dy };
                let gradient = Shape { c: dx.c, ..band };
                wide.resize(gradient.numel(), 0.0);
                self.direct(&x[first * row..last * row], band, weight, gradient).run(&mut wide);
                let inside = &wide[(from - first) * dy.w * dx.c..][..(to - from) * dy.w * dx.c];
                pool(
                    inside,
                    Shape { n: 1, h: (to - from) / 2, ..dx },
                    1.0,
                    &mut out[from / 2 * small_row..to / 2 * small_row],
                );
            }
        }
    }
}

/// Values of a band of the gradient by a doubled image: 16 MiB.
const MOST_OF_BAND: usize = 1 << 22;

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
        let made = |side: usize| if self.doubled { 2 * side } else { side.div_ceil(self.stride) };
        expect_shape(inputs[0], Shape::new(dy.n, made(h), made(width), w.n))?;
        if self.channels.end > w.c {
            return Err(format!("input channels {:?} of a weight with {}", self.channels, w.c));
        }
        let dx = Shape::new(dy.n, h, width, self.channels.len());
        if let Some(sum) = inputs.get(2) {
            expect_shape(sum, dx)?;
        }
        Ok(vec![if self.full { full("", dx) } else { storage(dx) }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        multiply_adds(inputs[0], Shape { c: self.channels.len(), ..inputs[1] })
    }
    fn in_place(&self) -> &'static [usize] {
        &[2]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, dx) = (launch.input_shapes[0], launch.output_shapes[0]);
        if self.doubled {
            let rows = (MOST_OF_BAND / (dy.w * dx.c)).max(16);
            return self.run_doubled(launch.inputs[0], dy, launch.inputs[1], launch.outputs[0], dx, rows);
        }
        let addend = if launch.inputs.len() == 3 { launch.input_unless_in_place(2) } else { None };
        DirectConv {
            addend,
            addend_in_out: launch.in_place == Some(2),
            ..self.direct(launch.inputs[0], dy, launch.inputs[1], dx)
        }
        .run(launch.outputs[0]);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaConv {
            x: r.inputs[0],
            second: None,
            weight: r.inputs[1],
            first_channel: self.channels.start,
            bias: None,
            item_bias: None,
            addend: r.inputs.get(2).copied(),
            y: r.outputs[0],
            gated: None,
            silu: false,
            kernel: self.kernel,
            stride: 1,
            spread: self.spread(),
            pad: self.kernel - 1 - self.padding.before(self.kernel),
            gradient: true,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_of_a_doubled_gradient_have_the_bits_of_the_whole() {
        let (dy, dx, c) = (Shape::new(2, 44, 36, 24), Shape::new(2, 22, 18, 20), 20);
        let values = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let (x, weight) = (values(dy.numel(), 0.7), values(dy.c * 9 * c, 0.3));
        let (kernel, stride, padding) = (3, 1, Padding::default());
        let vjp = ConvVjp { kernel, stride, padding, size: (22, 18), doubled: true, channels: 0..c, full: false };
        let gradient = |rows: usize| {
            let mut out = vec![f32::NAN; dx.numel()];
            vjp.run_doubled(&x, dy, &weight, &mut out, dx, rows);
            out
        };
        let whole = gradient(dy.h);
        for rows in [8, 15, 16, 40] {
            assert!(gradient(rows) == whole, "bands of {rows} rows");
        }
    }
}
