//! The weight gradient of a convolution:
//! `dw[o, tap, i] = sum over p of dy[p, o] x[stride p + tap - pad, i]`, over the pixels p of all
//! items. It can add to an existing gradient, so micro-batches need no memory of their own.

use super::cpu::weight::WeightGradient;
use super::problem::{Padding, multiply_adds};
use super::weight_launch::CudaWeightVjp;
use crate::ops::prelude::*;
use crate::tensor::Precision;
use pulp::Arch;
use rayon::prelude::*;
use std::borrow::Cow;

/// The weight gradient, f32. Inputs: dy, x, then optionally a gradient that the result is added to.
/// Linear layers take it with a kernel of 1.
#[derive(Debug, Clone)]
pub struct ConvWeightVjp {
    /// Kernel size of the forward convolution.
    pub kernel: usize,
    /// Stride of the forward convolution.
    pub stride: usize,
    /// Padding of the forward convolution.
    pub padding: Padding,
}

impl ConvWeightVjp {
    /// The weight gradient of a linear layer of every pixel.
    pub const LINEAR: ConvWeightVjp = ConvWeightVjp { kernel: 1, stride: 1, padding: Padding::Around };

    fn weight(&self, dy: Shape, x: Shape) -> Shape {
        Shape::new(dy.c, self.kernel, self.kernel, x.c)
    }
}

impl Op for ConvWeightVjp {
    fn name(&self) -> &'static str {
        "conv_weight_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if inputs.len() != 3 {
            expect_inputs(inputs, 2)?;
        }
        let (dy, x) = (inputs[0].shape, inputs[1].shape);
        expect_shape(inputs[0], Shape::new(x.n, x.h.div_ceil(self.stride), x.w.div_ceil(self.stride), dy.c))?;
        let dw = self.weight(dy, x);
        if let Some(sum) = inputs.get(2) {
            expect_shape(sum, dw)?;
            if sum.precision != Precision::Single {
                return Err(format!("{} should be f32, because the result is", sum.name));
            }
        }
        Ok(vec![single("", dw)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        multiply_adds(inputs[0], outputs[0])
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(2, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x) = (launch.input_shapes[0], launch.input_shapes[1]);
        let sum = if launch.inputs.len() == 3 { launch.input_unless_in_place(2) } else { None };
        match (sum, launch.in_place) {
            (Some(sum), _) => launch.outputs[0].copy_from_slice(sum),
            (None, Some(_)) => {}
            (None, None) => launch.outputs[0].fill(0.0),
        }
        for (dy_item, x_item) in launch.inputs[0].chunks(dy.item()).zip(launch.inputs[1].chunks(x.item())) {
            self.add_item((dy_item, dy), (x_item, x), launch.outputs[0]);
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaWeightVjp::new(r, self.kernel, self.stride, self.padding.before(self.kernel)).record(r);
        Ok(())
    }
}

impl ConvWeightVjp {
    /// Adds the gradient of one item to dw.
    fn add_item(&self, (dy, dy_shape): (&[f32], Shape), (x, x_shape): (&[f32], Shape), dw: &mut [f32]) {
        let ConvWeightVjp { kernel, stride, padding } = *self;
        let (ci, co, before) = (x_shape.c, dy_shape.c, padding.before(kernel));
        // The kernel reaches this far below and right of the last output pixel.
        let reach = |side: usize| (side - 1) * stride + kernel;
        let (height, width) = (reach(dy_shape.h).max(x_shape.h + before), reach(dy_shape.w).max(x_shape.w + before));
        let wide: Cow<'_, [f32]> = if kernel == 1 { x.into() } else { widened(x, x_shape, before, (height, width)) };
        let row = kernel * kernel * ci;
        let rows = (co / 2).clamp(12, 64);
        dw.par_chunks_mut(rows * row).enumerate().for_each(|(k, dw)| {
            Arch::new().dispatch(WeightGradient {
                kernel,
                stride,
                channels: (ci, co),
                wide: &wide,
                width,
                dy: &dy[k * rows..],
                columns: dy_shape.w,
                rows: dy_shape.h,
                dw,
            });
        });
    }
}

/// An item with zeros around it: `before` rows and columns of them first, `size` rows and columns in
/// all.
fn widened(item: &[f32], shape: Shape, before: usize, size: (usize, usize)) -> Cow<'static, [f32]> {
    let (c, mut wide) = (shape.c, vec![0.0; size.0 * size.1 * shape.c]);
    wide.par_chunks_mut(size.1 * c).enumerate().for_each(|(r, row)| {
        if let Some(r) = r.checked_sub(before).filter(|&r| r < shape.h) {
            row[before * c..][..shape.w * c].copy_from_slice(&item[r * shape.w * c..][..shape.w * c]);
        }
    });
    wide.into()
}
