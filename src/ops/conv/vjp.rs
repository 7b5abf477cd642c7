//! The data gradient of a convolution; mod.rs has the derivation.

use super::launch::CudaConv;
use super::problem::{DirectConv, Geometry, Padding, Spread, WeightOrder, multiply_adds};
use crate::ops::prelude::*;
use crate::ops::resample::pool;
use std::ops::Range;

/// Floats of one band of the gradient with respect to a doubled image: 16 MiB.
const MOST_OF_BAND: usize = 1 << 22;

/// The data gradient. Inputs: dy, weight, then optionally a gradient that the result is added to.
#[derive(Debug, Clone)]
pub struct ConvVjp {
    /// Kernel size of the forward convolution.
    pub kernel: usize,
    /// Stride of the forward convolution.
    pub stride: usize,
    /// Padding of the forward convolution.
    pub padding: Padding,
    /// Rows and columns of the forward input, before doubling.
    pub size: (usize, usize),
    /// The forward convolution doubled its input.
    pub doubled: bool,
    /// Input channels of the weight that belong to this source; the gradient has these channels.
    pub channels: Range<usize>,
    /// The gradient is f32 because x is.
    pub single: bool,
}

impl ConvVjp {
    fn spread(&self) -> Spread {
        match (self.stride, self.doubled) {
            (2, _) => Spread::Zeros,
            (_, true) => Spread::Repeat,
            _ => Spread::Dense,
        }
    }

    /// The gradient `dx` with respect to the image that the kernel moved over (for a doubled x, the
    /// doubled image).
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

    /// The gradient of a doubled image: computed on the doubled grid, then summed over 2x2 blocks.
    /// It runs in bands of about `rows` rows, because the plan has no room for the whole doubled
    /// gradient.
    fn run_doubled(&self, x: &[f32], dy: Shape, weight: &[f32], out: &mut [f32], dx: Shape, rows: usize) {
        // Extra rows on each side that the convolution of a band reads. They are even in number, so
        // that a band has the same Winograd tiles as the whole image.
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
        Ok(vec![if self.single { single("", dx) } else { storage(dx) }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        multiply_adds(inputs[0], Shape { c: self.channels.len(), ..inputs[1] })
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(2, 0)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_of_a_doubled_gradient_have_the_bits_of_the_whole() {
        let (dy, dx, c) = (Shape::new(2, 44, 36, 24), Shape::new(2, 22, 18, 20), 20);
        let values = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let (x, weight) = (values(dy.numel(), 0.7), values(dy.c * 9 * c, 0.3));
        let (kernel, stride, padding) = (3, 1, Padding::default());
        let vjp = ConvVjp { kernel, stride, padding, size: (22, 18), doubled: true, channels: 0..c, single: false };
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
