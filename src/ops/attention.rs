//! Multi-head self-attention on a packed qkv tensor, the scores never stored as a whole.
//!
//! `S = scale q k^T` (scale = d^-1/2), `P = softmax(S)`, `o = P v`, `lse = log sum exp S` per row.
//! VJP: with P = exp(S - lse) made again block by block and delta = rowsum(do * o):
//! dv = P^T do, dS = P * (do v^T - delta), dq = scale dS k, dk = scale dS^T q.
//! Needs qkv, o, lse and do.

mod launch;

use super::*;
use crate::backend::cpu::parallel::{exp, vectorised};
use rayon::prelude::*;

/// Query rows of one block.
const QUERIES: usize = 128;
/// Key rows of one block.
const KEYS: usize = 512;

/// Where q, k and v of head `h` stand among the 3c channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// Head by head, each `[q | k | v]` ("legacy" in guided-diffusion).
    ByHead,
    /// All q, all k, all v, each head by head ("new").
    ByKind,
}

/// Attention over all pixels of an item. Input: qkv (n, h, w, 3c). Outputs: o (n, h, w, c), lse (n, heads, h w, 1).
#[derive(Debug, Clone)]
pub struct Attention {
    /// Heads; c is divisible by it.
    pub heads: usize,
    /// Order of the channels.
    pub order: QkvOrder,
}

/// Gradient by qkv. Inputs: do, qkv, o, lse.
#[derive(Debug, Clone)]
pub struct AttentionVjp(pub Attention);

impl Attention {
    /// First channel of q, k and v of head `h`, for heads of `d` channels.
    fn offsets(&self, h: usize, d: usize) -> [usize; 3] {
        match self.order {
            QkvOrder::ByHead => [3 * h * d, (3 * h + 1) * d, (3 * h + 2) * d],
            QkvOrder::ByKind => [h * d, (self.heads + h) * d, (2 * self.heads + h) * d],
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let s = inputs[0].shape;
        if self.heads == 0 || s.c % (3 * self.heads) != 0 {
            return Err(format!("{} channels do not divide into q, k, v of {} heads", s.c, self.heads));
        }
        Ok(vec![storage(Shape { c: s.c / 3, ..s }), full("lse", Shape::new(s.n, self.heads, s.h * s.w, 1))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let name = r.name();
        let inputs = [r.dout(0)?, r.input(0), r.out(0), r.out(1)];
        let dqkv = r.graph.one(AttentionVjp(self.clone()), &name, &inputs)?;
        r.give(0, dqkv);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        let s = inputs[0];
        let tokens = (s.h * s.w) as u64;
        4 * s.n as u64 * tokens * tokens * (s.c / 3) as u64
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.input_shapes[0];
        let (tokens, c) = (s.h * s.w, s.c / 3);
        let d = c / self.heads;
        let scale = (d as f32).sqrt().recip();
        let qkv = launch.inputs[0];
        let [out, lse] = &mut launch.outputs[..] else { unreachable!("two outputs") };
        let blocks = tokens.div_ceil(QUERIES);
        let results: Vec<(Vec<f32>, Vec<f32>)> = (0..s.n * self.heads * blocks)
            .into_par_iter()
            .map(|task| {
                let (item, head, block) = (task / blocks / self.heads, task / blocks % self.heads, task % blocks);
                let [q, k, v] = self.offsets(head, d).map(|o| &qkv[item * tokens * s.c + o..]);
                let rows = QUERIES.min(tokens - block * QUERIES);
                forward_block(&q[block * QUERIES * s.c..], k, v, s.c, tokens, rows, d, scale)
            })
            .collect();
        for (task, (o, l)) in results.into_iter().enumerate() {
            let (item, head, block) = (task / blocks / self.heads, task / blocks % self.heads, task % blocks);
            let row = block * QUERIES;
            lse[(item * self.heads + head) * tokens + row..][..l.len()].copy_from_slice(&l);
            for (r, o) in o.chunks(d).enumerate() {
                out[(item * tokens + row + r) * c + head * d..][..d].copy_from_slice(o);
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let attention = self.cuda(r.inputs[0], r.outputs[0], r.outputs[1], None);
        attention.record_forward(r);
        Ok(())
    }
}

/// One block of queries against all keys with a running maximum and sum (online softmax).
#[allow(clippy::too_many_arguments)]
fn forward_block(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    stride: usize,
    tokens: usize,
    rows: usize,
    d: usize,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![0f32; rows * d];
    let mut largest = vec![f32::NEG_INFINITY; rows];
    let mut sums = vec![0f32; rows];
    let mut scores = vec![0f32; rows * KEYS];
    for from in (0..tokens).step_by(KEYS) {
        let keys = KEYS.min(tokens - from);
        let (k, v) = (&k[from * stride..], &v[from * stride..]);
        matmul((rows, keys, d), &mut scores, (KEYS, 1), false, q, (stride, 1), k, (1, stride), scale);
        for r in 0..rows {
            let shrink = online_softmax(&mut scores[r * KEYS..][..keys], &mut largest[r], &mut sums[r]);
            out[r * d..(r + 1) * d].iter_mut().for_each(|o| *o *= shrink);
        }
        matmul((rows, d, keys), &mut out, (d, 1), true, &scores, (KEYS, 1), v, (stride, 1), 1.0);
    }
    for (o, s) in out.chunks_mut(d).zip(&sums) {
        o.iter_mut().for_each(|o| *o /= s);
    }
    (out, largest.iter().zip(&sums).map(|(m, s)| m + s.ln()).collect())
}

impl Op for AttentionVjp {
    fn name(&self) -> &'static str {
        "attention_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        expect_shape(inputs[2], inputs[0].shape)?;
        Ok(vec![storage(inputs[1].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        let s = inputs[0];
        let tokens = (s.h * s.w) as u64;
        10 * s.n as u64 * tokens * tokens * s.c as u64
    }
    fn launches(&self) -> usize {
        3
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.input_shapes[1];
        let (tokens, c, heads) = (s.h * s.w, s.c / 3, self.0.heads);
        let d = c / heads;
        let [dout, qkv, out, lse] = launch.inputs[..] else { unreachable!("four inputs") };
        let results: Vec<[Vec<f32>; 3]> = (0..s.n * heads)
            .into_par_iter()
            .map(|task| {
                let (item, head) = (task / heads, task % heads);
                let part = |x, o| strided(x, item * tokens, tokens, if o { s.c } else { c });
                let rows = Rows { stride: s.c, out_stride: c, tokens, d, scale: (d as f32).sqrt().recip() };
                let [q, k, v] = self.0.offsets(head, d).map(|o| &part(qkv, true)[o..]);
                let (dout, out) = (&part(dout, false)[head * d..], &part(out, false)[head * d..]);
                backward_head(&rows, q, k, v, dout, out, &lse[task * tokens..][..tokens])
            })
            .collect();
        let dqkv = &mut *launch.outputs[0];
        for (task, parts) in results.iter().enumerate() {
            let (item, head) = (task / heads, task % heads);
            for (part, offset) in parts.iter().zip(self.0.offsets(head, d)) {
                for (row, values) in part.chunks(d).enumerate() {
                    dqkv[(item * tokens + row) * s.c + offset..][..d].copy_from_slice(values);
                }
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [dout, qkv, out, lse] = r.inputs[..] else { unreachable!("four inputs") };
        let attention = self.0.cuda(qkv, out, lse, Some([dout, r.outputs[0]]));
        attention.record_reverse(r);
        Ok(())
    }
}

fn strided(x: &[f32], first_row: usize, rows: usize, width: usize) -> &[f32] {
    &x[first_row * width..][..rows * width]
}

struct Rows {
    stride: usize,
    out_stride: usize,
    tokens: usize,
    d: usize,
    scale: f32,
}

/// dq, dk, dv of one head, each (tokens, d).
fn backward_head(g: &Rows, q: &[f32], k: &[f32], v: &[f32], dout: &[f32], out: &[f32], lse: &[f32]) -> [Vec<f32>; 3] {
    let (d, s, os) = (g.d, g.stride, g.out_stride);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|_| vec![0f32; g.tokens * d]);
    let delta: Vec<f32> =
        (0..g.tokens).map(|r| dout[r * os..][..d].iter().zip(&out[r * os..][..d]).map(|(a, b)| a * b).sum()).collect();
    let (mut p, mut ds) = (vec![0f32; QUERIES * KEYS], vec![0f32; QUERIES * KEYS]);
    for from in (0..g.tokens).step_by(KEYS) {
        let keys = KEYS.min(g.tokens - from);
        let (k, v) = (&k[from * s..], &v[from * s..]);
        for row in (0..g.tokens).step_by(QUERIES) {
            let rows = QUERIES.min(g.tokens - row);
            let (q, dout) = (&q[row * s..], &dout[row * os..]);
            matmul((rows, keys, d), &mut p, (KEYS, 1), false, q, (s, 1), k, (1, s), g.scale);
            matmul((rows, keys, d), &mut ds, (KEYS, 1), false, dout, (os, 1), v, (1, s), 1.0);
            for r in 0..rows {
                let (p, ds) = (&mut p[r * KEYS..][..keys], &mut ds[r * KEYS..][..keys]);
                probabilities_and_slopes(p, ds, lse[row + r], delta[row + r], g.scale);
            }
            let (dk, dv) = (&mut dk[from * d..], &mut dv[from * d..]);
            matmul((keys, d, rows), dv, (d, 1), true, &p, (1, KEYS), dout, (os, 1), 1.0);
            matmul((keys, d, rows), dk, (d, 1), true, &ds, (1, KEYS), q, (s, 1), 1.0);
            matmul((rows, d, keys), &mut dq[row * d..], (d, 1), true, &ds, (KEYS, 1), k, (s, 1), 1.0);
        }
    }
    [dq, dk, dv]
}

vectorised! {
    /// Turns a row of scores into exp(score - maximum) with the maximum of all keys so far; gives the factor by which what was
    /// summed before shrinks.
    fn online_softmax(row: &mut [f32], largest: &mut f32, sum: &mut f32) -> f32 {
        const LANES: usize = 16;
        let mut lanes = [*largest; LANES];
        for part in row.chunks_exact(LANES) {
            (0..LANES).for_each(|l| lanes[l] = if part[l] > lanes[l] { part[l] } else { lanes[l] });
        }
        let rest = row.chunks_exact(LANES).remainder();
        let m = lanes.iter().chain(rest).fold(*largest, |m, &x| if x > m { x } else { m });
        let mut sums = [0f32; LANES];
        let mut parts = row.chunks_exact_mut(LANES);
        for part in &mut parts {
            for l in 0..LANES {
                part[l] = exp(part[l] - m);
                sums[l] += part[l];
            }
        }
        let mut total: f32 = sums.iter().sum();
        for x in parts.into_remainder() {
            *x = exp(*x - m);
            total += *x;
        }
        let shrink = exp(*largest - m);
        *sum = *sum * shrink + total;
        *largest = m;
        shrink
    }
}

vectorised! {
    /// p = exp(s - lse) in place of s, and dS = p (dp - delta) scale in place of dp.
    fn probabilities_and_slopes(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p - lse);
            *ds = *p * (*ds - delta) * scale;
        }
    }
}

/// `out (+)= factor a b` for (rows, columns, depth) with (row, column) strides, on this thread.
#[allow(clippy::too_many_arguments)]
fn matmul(
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    out_strides: (usize, usize),
    add: bool,
    a: &[f32],
    a_strides: (usize, usize),
    b: &[f32],
    b_strides: (usize, usize),
    factor: f32,
) {
    let reach = |(r, c): (usize, usize), rows: usize, columns: usize| (rows - 1) * r + (columns - 1) * c;
    assert!(out.len() > reach(out_strides, m, n));
    assert!(a.len() > reach(a_strides, m, k) && b.len() > reach(b_strides, k, n));
    // SAFETY: the assertions bound every address; `out` is borrowed mutably, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_strides.1 as isize,
            out_strides.0 as isize,
            add,
            a.as_ptr(),
            a_strides.1 as isize,
            a_strides.0 as isize,
            b.as_ptr(),
            b_strides.1 as isize,
            b_strides.0 as isize,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
