//! Norms per batch item: no item of a batch affects another one.
//!
//! residual: `r[n] = || a[n] - y[n] ||_2`. VJP: da = dr (a - y) / r, dy = -da, both 0 where r = 0.
//! squared: `s[n] = || x[n] ||_2^2`. VJP: dx = 2 ds x.

use super::linear_combination::LinearCombination;
use super::prelude::*;
use crate::backend::cpu::parallel::{for_item_chunks, interleaved_sum, sum};

/// Norm of a difference, not squared. Inputs: a, y of one shape. Output (n, 1, 1, 1).
#[derive(Debug, Clone)]
pub struct ResidualNorm;

/// Gradient with respect to a. Inputs: dr, a, y, r.
#[derive(Debug, Clone)]
pub struct ResidualNormVjp;

/// Squared norm. Input: x. Output (n, 1, 1, 1).
#[derive(Debug, Clone)]
pub struct SquaredNorm;

/// Sum of the squares of all values, f32. Inputs: x, then optionally a sum (1, 1, 1, 1) that the
/// result is added to. Output (1, 1, 1, 1). An optimiser's: it has no gradient.
#[derive(Debug, Clone)]
pub struct SquaredSum;

/// `|| a - b ||^2` of one item, summed in f64 in an order that does not depend on the number of
/// threads.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    sum(a.len(), |range| {
        let (a, b) = (&a[range.clone()], &b[range]);
        interleaved_sum(a.len(), |i| (a[i] - b[i]) * (a[i] - b[i]))
    })
}

/// `|| x ||^2` of one item in f64.
pub(crate) fn squared_norm(x: &[f32]) -> f64 {
    sum(x.len(), |range| {
        let x = &x[range];
        interleaved_sum(x.len(), |i| x[i] * x[i])
    })
}

impl Op for ResidualNorm {
    fn name(&self) -> &'static str {
        "residual_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        Ok(vec![single("", Shape::rows(inputs[0].shape.n, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let name = r.name();
        let inputs = [r.dout(0)?, r.input(0), r.input(1), r.out(0)];
        let da = r.graph.one(ResidualNormVjp, &name, &inputs)?;
        if r.wants(0) {
            r.give(0, da);
        }
        if r.wants(1) {
            let dy = r.graph.one(super::add::Scale { scale: -1.0 }, &name, &[da])?;
            r.give(1, dy);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        3 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let item = launch.input_shapes[0].item();
        let (a, y) = (launch.inputs[0], launch.inputs[1]);
        for (r, (a, y)) in launch.outputs[0].iter_mut().zip(a.chunks(item).zip(y.chunks(item))) {
            *r = squared_distance(a, y).sqrt() as f32;
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (a, y) = (r.inputs[0], r.inputs[1]);
        let partial = record_squares(r, a, Some(y));
        let norm = kernels::NormParams { r: r.outputs[0].into(), partial: partial.into(), items: a.shape.n };
        r.launch(kernels::RESIDUAL_NORM, [1; 3], 32, 0, norm);
        Ok(())
    }
}

impl Op for ResidualNormVjp {
    fn name(&self) -> &'static str {
        "residual_norm_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        expect_shape(inputs[2], inputs[1].shape)?;
        Ok(vec![single("", inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[1].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let item = launch.input_shapes[1].item();
        let [dr, a, y, r] = launch.inputs[..] else { unreachable!("four inputs") };
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let factor = if r[n] > 0.0 { dr[n] / r[n] } else { 0.0 };
            let (a, y) = (&a[n * item + at..], &y[n * item + at..]);
            out.iter_mut().zip(a.iter().zip(y)).for_each(|(o, (a, y))| *o = factor * (a - y));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dr, a, y, norm] = r.inputs[..] else { unreachable!("four inputs") };
        let (da, item) = (r.outputs[0], a.shape.item());
        let params = kernels::ResidualNormVjpParams {
            da: da.into(),
            dr: dr.into(),
            a: a.into(),
            y: y.into(),
            r: norm.into(),
            item,
        };
        r.each(kernels::RESIDUAL_NORM_VJP, item.div_ceil(4), a.shape.n, params);
        Ok(())
    }
}

impl Op for SquaredNorm {
    fn name(&self) -> &'static str {
        "squared_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![single("", Shape::rows(inputs[0].shape.n, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, x, name) = (r.dout(0)?, r.input(0), r.name());
        let twice = r.graph.one(super::add::Scale { scale: 2.0 }, &name, &[dout])?;
        let dx = r.graph.one(LinearCombination { columns: vec![0] }, &name, &[twice, x])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, x) = (launch.input_shapes[0].item(), launch.inputs[0]);
        for (s, x) in launch.outputs[0].iter_mut().zip(x.chunks(item)) {
            *s = squared_norm(x) as f32;
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let x = r.inputs[0];
        let partial = record_squares(r, x, None);
        let norm = kernels::NormParams { r: r.outputs[0].into(), partial: partial.into(), items: x.shape.n };
        r.launch(kernels::SQUARED_NORM, [1; 3], 32, 0, norm);
        Ok(())
    }
}

impl Op for SquaredSum {
    fn name(&self) -> &'static str {
        "squared_sum"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        if inputs.len() != 2 {
            expect_inputs(inputs, 1)?;
        }
        inputs[1..].iter().try_for_each(|sum| expect_shape(sum, Shape::rows(1, 1)))?;
        Ok(vec![single("", Shape::rows(1, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), "an optimiser's step is not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        2 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let before = launch.inputs.get(1).map_or(0.0, |sum| sum[0] as f64);
        launch.outputs[0][0] = (before + squared_norm(launch.inputs[0])) as f32;
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, sum, count) = (r.inputs[0], r.inputs.get(1).copied(), r.inputs[0].shape.numel());
        // A large tensor is several items, so that more than PARTIALS blocks read it.
        let items = [16, 8, 4, 2].into_iter().find(|k| count % k == 0 && count / k >= 1 << 16).unwrap_or(1);
        let seen = Operand { shape: Shape::rows(items, count / items), ..x };
        let partial = record_squares(r, seen, None);
        let params =
            kernels::SquaredSumParams { y: r.outputs[0].into(), sum: sum.into(), partial: partial.into(), items };
        r.launch(kernels::SQUARED_SUM, [1; 3], PARTIALS, 8 * PARTIALS, params);
        Ok(())
    }
}

/// Number of partial sums per batch item, one for each block: PARTIALS of
/// kernels/include/item_norm.cuh.
const PARTIALS: usize = 64;

/// Records a launch that computes partial sums of `|| a - b ||^2` for every item (`|| a ||^2`
/// without b) and returns the scratch that holds them.
pub(crate) fn record_squares(r: &mut Recorder<'_>, a: Operand, b: Option<Operand>) -> Operand {
    let partial = r.scratch(PARTIALS * a.shape.n);
    let params =
        kernels::SquaresPartialParams { partial: partial.into(), a: a.into(), b: b.into(), item: a.shape.item() };
    r.launch(kernels::SQUARES_PARTIAL, [PARTIALS, a.shape.n, 1], 256, 32, params);
    partial
}
