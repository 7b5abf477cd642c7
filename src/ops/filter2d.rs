//! A two-dimensional blur with one kernel per batch item.
//!
//! `y[p] = sum over t of k[t] R(x)[p + t]` (cross-correlation), R the padding of the boundary.
//! VJP: every product `dy[p] k[t]` is added at padded position p + t; then R^T adds each border
//! value to the pixel that it repeats.

use super::prelude::*;
use rayon::prelude::*;

/// What an image is continued with beyond its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Its mirror image, without repeating the edge: 2 1 | 0 1 2.
    Reflect,
    /// Its other side: n-2 n-1 | 0 1 2.
    Circular,
}

/// As the options of tasks name it.
impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Boundary::Reflect => "reflect",
            Boundary::Circular => "circular",
        })
    }
}

impl Boundary {
    /// The position within 0..n that continues the image at position `i`.
    pub fn source(self, i: isize, n: usize) -> usize {
        let size = n as isize;
        match self {
            Boundary::Circular => i.rem_euclid(size) as usize,
            Boundary::Reflect if n == 1 => 0,
            Boundary::Reflect => {
                let around = i.rem_euclid(2 * (size - 1));
                around.min(2 * (size - 1) - around) as usize
            }
        }
    }
}

/// The blur. Inputs: x (n, h, w, c), kernel (n, k, k, 1) with k odd and k / 2 < h, w.
#[derive(Debug, Clone)]
pub struct Filter2d {
    /// The padding.
    pub boundary: Boundary,
}

/// Its adjoint. Inputs: dy (n, h, w, c), kernel (n, k, k, 1).
#[derive(Debug, Clone)]
pub struct Filter2dVjp {
    /// The padding.
    pub boundary: Boundary,
}

fn check(inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
    expect_inputs(inputs, 2)?;
    let (x, k) = (inputs[0].shape, inputs[1].shape);
    expect_shape(inputs[1], Shape::new(x.n, k.h, k.h, 1))?;
    if k.h % 2 == 0 {
        return Err(format!("the kernel's size {} should be odd", k.h));
    }
    if k.h / 2 >= x.h.min(x.w) {
        return Err(format!("a kernel of {0}x{0} is too large for {1}x{2} pixels", k.h, x.h, x.w));
    }
    Ok(vec![single("", x)])
}

fn flops(inputs: &[Shape]) -> u64 {
    2 * inputs[0].numel() as u64 * (inputs[1].h * inputs[1].w) as u64
}

/// (row, column, weight) of every non-zero weight: motion kernels are mostly zeros.
fn nonzero(kernel: &[f32], k: usize) -> Vec<(usize, usize, f32)> {
    let values = kernel.iter().enumerate().filter(|(_, w)| **w != 0.0);
    values.map(|(i, &w)| (i / k, i % k, w)).collect()
}

impl Op for Filter2d {
    fn name(&self) -> &'static str {
        "filter2d"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        check(inputs)
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..2, "the kernel is known")?;
        let (dout, kernel, name) = (r.dout(0)?, r.input(1), r.name());
        let dx = r.graph.one(Filter2dVjp { boundary: self.boundary }, &name, &[dout, kernel])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        flops(inputs)
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, k) = (launch.input_shapes[0], launch.input_shapes[1].h);
        let (x, kernel, border) = (launch.inputs[0], launch.inputs[1], k / 2);
        let source = |i: usize, n: usize| self.boundary.source(i as isize - border as isize, n);
        let wide = (s.w + 2 * border) * s.c;
        for (n, out) in launch.outputs[0].chunks_mut(s.item()).enumerate() {
            let x = &x[n * s.item()..][..s.item()];
            let taps = nonzero(&kernel[n * k * k..][..k * k], k);
            let mut padded = vec![0f32; s.h * wide];
            padded.par_chunks_mut(wide).zip(x.par_chunks(s.w * s.c)).for_each(|(row, x)| {
                for (j, pixel) in row.chunks_mut(s.c).enumerate() {
                    pixel.copy_from_slice(&x[source(j, s.w) * s.c..][..s.c]);
                }
            });
            out.par_chunks_mut(s.w * s.c).enumerate().for_each(|(i, out)| {
                out.fill(0.0);
                for &(a, b, w) in &taps {
                    let row = &padded[source(i + a, s.h) * wide + b * s.c..];
                    out.iter_mut().zip(row).for_each(|(o, x)| *o += w * x);
                }
            });
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::FILTER2D, self.boundary);
        Ok(())
    }
}

impl Op for Filter2dVjp {
    fn name(&self) -> &'static str {
        "filter2d_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        check(inputs)
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..2, "the kernel is known")?;
        let (dout, kernel, name) = (r.dout(0)?, r.input(1), r.name());
        let dx = r.graph.one(Filter2d { boundary: self.boundary }, &name, &[dout, kernel])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        flops(inputs)
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, k) = (launch.input_shapes[0], launch.input_shapes[1].h);
        let (dy, kernel, border) = (launch.inputs[0], launch.inputs[1], k / 2);
        let source = |i: usize, n: usize| self.boundary.source(i as isize - border as isize, n);
        let (wide, tall) = ((s.w + 2 * border) * s.c, s.h + 2 * border);
        for (n, dx) in launch.outputs[0].chunks_mut(s.item()).enumerate() {
            let dy = &dy[n * s.item()..][..s.item()];
            let taps = nonzero(&kernel[n * k * k..][..k * k], k);
            let mut padded = vec![0f32; tall * wide];
            padded.par_chunks_mut(wide).enumerate().for_each(|(i, row)| {
                for &(a, b, w) in &taps {
                    if let Some(y) = i.checked_sub(a).filter(|&y| y < s.h) {
                        let dy = &dy[y * s.w * s.c..][..s.w * s.c];
                        row[b * s.c..].iter_mut().zip(dy).for_each(|(r, d)| *r += w * d);
                    }
                }
            });
            dx.fill(0.0);
            for (i, row) in padded.chunks(wide).enumerate() {
                let dx = &mut dx[source(i, s.h) * s.w * s.c..][..s.w * s.c];
                for (j, pixel) in row.chunks(s.c).enumerate() {
                    let at = source(j, s.w) * s.c;
                    dx[at..at + s.c].iter_mut().zip(pixel).for_each(|(d, p)| *d += p);
                }
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        record(r, kernels::FILTER2D_VJP, self.boundary);
        Ok(())
    }
}

fn record(r: &mut Recorder<'_>, kernel: Kernel<kernels::Filter2dParams>, boundary: Boundary) {
    let (x, k, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
    let s = x.shape;
    let params = kernels::Filter2dParams {
        y: y.into(),
        x: x.into(),
        kernel: k.into(),
        h: s.h,
        w: s.w,
        channels: s.c,
        size: k.shape.h,
        circular: usize::from(boundary == Boundary::Circular),
    };
    r.launch(kernel, [(s.h * s.w).div_ceil(256), s.c.div_ceil(4), s.n], 256, 0, params);
}
