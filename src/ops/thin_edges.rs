//! The magnitude of a gradient image where it is a maximum across the edge:
//! `y = k sqrt(a^2 + b^2 + 1e-6)`, a the derivative along the width and b along the height
//!
//! k is 1 where the magnitude exceeds both neighbours in the direction of (a, b), rounded to 45
//! degrees, and 0 elsewhere; beyond the border the magnitude is 0. This is the first half of Canny
//! (1986). VJP: k is a constant, so with m the root da = k dy a / m and db = k dy b / m.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// The maxima. Inputs: a, b (n, h, w, 1). Output (n, h, w, 1).
#[derive(Debug, Clone)]
pub struct ThinEdges;

/// Its VJP. Inputs: dy, a, b (n, h, w, 1). Outputs: da, db.
#[derive(Debug, Clone)]
pub struct ThinEdgesVjp;

/// Added under the root.
const SMALL: f32 = 1e-6;

fn check(inputs: &[&Tensor], count: usize) -> Result<Shape, String> {
    expect_inputs(inputs, count)?;
    let shape = Shape { c: 1, ..inputs[0].shape };
    inputs.iter().try_for_each(|x| expect_shape(x, shape))?;
    Ok(shape)
}

/// The magnitude at pixel `k` if it is a maximum, else 0. The images have the shape `s`.
fn thin(a: &[f32], b: &[f32], s: Shape, k: usize) -> f32 {
    let magnitude = |k: usize| (a[k] * a[k] + b[k] * b[k] + SMALL).sqrt();
    let (row, column) = ((k / s.w % s.h) as isize, (k % s.w) as isize);
    // Octants of the direction, counted from the positive width towards the positive height.
    let octant = (b[k].atan2(a[k]) * (4.0 / std::f32::consts::PI)).round_ties_even() as i32 & 3;
    let (down, right) = [(0, 1), (1, 1), (1, 0), (1, -1)][octant as usize];
    let beyond = |sign: isize| {
        let (r, c) = (row + sign * down, column + sign * right);
        let is_inside = (0..s.h as isize).contains(&r) && (0..s.w as isize).contains(&c);
        if is_inside { magnitude((k as isize + sign * (down * s.w as isize + right)) as usize) } else { 0.0 }
    };
    let here = magnitude(k);
    if here > beyond(1) && here > beyond(-1) { here } else { 0.0 }
}

impl Op for ThinEdges {
    fn name(&self) -> &'static str {
        "thin_edges"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        Ok(vec![single("", check(inputs, 2)?)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, a, b, name) = (r.dout(0)?, r.input(0), r.input(1), r.name());
        let gradients = r.graph.add(ThinEdgesVjp, &name, &[dout, a, b])?;
        r.give(0, gradients[0]);
        r.give(1, gradients[1]);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        24 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (a, b, s) = (launch.inputs[0], launch.inputs[1], launch.input_shapes[0]);
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            (at..).zip(out).for_each(|(k, y)| *y = thin(a, b, s, k));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (a, b, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let (s, count) = (a.shape, a.shape.numel());
        let params = kernels::ThinEdgesParams { y: y.into(), a: a.into(), b: b.into(), count, h: s.h, w: s.w };
        r.each(kernels::THIN_EDGES, count, 1, params);
        Ok(())
    }
}

impl Op for ThinEdgesVjp {
    fn name(&self) -> &'static str {
        "thin_edges_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        let shape = check(inputs, 3)?;
        Ok(vec![single("da", shape), single("db", shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..3, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        28 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let ([dy, a, b], s) = ([0, 1, 2].map(|i| launch.inputs[i]), launch.input_shapes[0]);
        for (output, of) in [(0, a), (1, b)] {
            let all = launch.outputs[output].len();
            for_item_chunks(launch.outputs[output], all, |_, at, out| {
                for (k, d) in (at..).zip(out) {
                    let magnitude = thin(a, b, s, k);
                    *d = if magnitude > 0.0 { dy[k] * of[k] / magnitude } else { 0.0 };
                }
            });
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dy, a, b] = r.inputs[..] else { unreachable!("three inputs") };
        let (s, count) = (a.shape, a.shape.numel());
        let params = kernels::ThinEdgesVjpParams {
            da: r.outputs[0].into(),
            db: r.outputs[1].into(),
            dy: dy.into(),
            a: a.into(),
            b: b.into(),
            count,
            h: s.h,
            w: s.w,
        };
        r.each(kernels::THIN_EDGES_VJP, count, 1, params);
        Ok(())
    }
}
