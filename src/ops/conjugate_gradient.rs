//! Inner products and quotient steps of conjugate gradients, per batch item.
//!
//! inner_product: `p[n] = <a[n], b[n]>`. VJP: da = dp b, db = dp a.
//! ratio_step: `out[n] = x[n] + sign (above[n] / below[n]) d[n]`, or x where below is 0: the step
//! length is a quotient of two inner products. A solver update: it has no gradient.

use super::linear_combination::LinearCombination;
use super::prelude::*;
use crate::backend::cpu::parallel::{for_item_chunks, interleaved_sum, sum};

/// Inputs: a, b of one shape. Output (n, 1, 1, 1).
#[derive(Debug, Clone)]
pub struct InnerProduct;

/// Inputs: x, d of one shape, above and below (n, 1, 1, 1).
#[derive(Debug, Clone)]
pub struct RatioStep {
    /// 1 or -1.
    pub sign: f32,
}

impl Op for InnerProduct {
    fn name(&self) -> &'static str {
        "inner_product"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        Ok(vec![single("", Shape::rows(inputs[0].shape.n, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dp, name) = (r.dout(0)?, r.name());
        for (k, other) in [(0, r.input(1)), (1, r.input(0))] {
            if r.wants(k) {
                let dx = r.graph.one(LinearCombination { columns: vec![0] }, &name, &[dp, other])?;
                r.give(k, dx);
            }
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, a, b) = (launch.input_shapes[0].item(), launch.inputs[0], launch.inputs[1]);
        for (p, (a, b)) in launch.outputs[0].iter_mut().zip(a.chunks(item).zip(b.chunks(item))) {
            let products = sum(item, |range| {
                let (a, b) = (&a[range.clone()], &b[range]);
                interleaved_sum(a.len(), |i| a[i] * b[i])
            });
            *p = products as f32;
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (a, b) = (r.inputs[0], r.inputs[1]);
        let partial = r.scratch(PARTIALS * a.shape.n);
        let params =
            kernels::ProductsPartialParams { partial: partial.into(), a: a.into(), b: b.into(), item: a.shape.item() };
        r.launch(kernels::PRODUCTS_PARTIAL, [PARTIALS, a.shape.n, 1], 256, 32, params);
        let out = r.outputs[0];
        let params = kernels::InnerProductParams { out: out.into(), partial: partial.into(), items: a.shape.n };
        r.launch(kernels::INNER_PRODUCT, [1; 3], 32, 0, params);
        Ok(())
    }
}

/// Number of partial sums per batch item, one for each block: PARTIALS of
/// kernels/include/item_norm.cuh.
const PARTIALS: usize = 64;

impl Op for RatioStep {
    fn name(&self) -> &'static str {
        "ratio_step"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        let x = inputs[0].shape;
        expect_shape(inputs[1], x)?;
        expect_shape(inputs[2], Shape::rows(x.n, 1))?;
        expect_shape(inputs[3], Shape::rows(x.n, 1))?;
        Ok(vec![single("", x)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, "a solver's steps are not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let item = launch.input_shapes[0].item();
        let [x, d, above, below] = launch.inputs[..] else { unreachable!("four inputs") };
        let sign = self.sign;
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let factor = if below[n] != 0.0 { sign * above[n] / below[n] } else { 0.0 };
            let (x, d) = (&x[n * item + at..], &d[n * item + at..]);
            out.iter_mut().zip(x.iter().zip(d)).for_each(|(o, (x, d))| *o = x + factor * d);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [x, d, above, below] = r.inputs[..] else { unreachable!("four inputs") };
        let (out, item) = (r.outputs[0], x.shape.item());
        let params = kernels::RatioStepParams {
            out: out.into(),
            x: x.into(),
            d: d.into(),
            above: above.into(),
            below: below.into(),
            item,
            sign: self.sign,
        };
        r.each(kernels::RATIO_STEP, item.div_ceil(4), x.shape.n, params);
        Ok(())
    }
}
