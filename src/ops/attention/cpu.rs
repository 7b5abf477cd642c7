//! Attention on the CPU, block by block: the scores of one block of queries and one block of keys
//! are in memory at a time.

use crate::backend::cpu::math::exp;
use crate::backend::cpu::matmul::matmul;
use crate::backend::cpu::parallel::vectorised;
use rayon::prelude::*;

/// Query rows per block.
const QUERIES: usize = 128;
/// Key rows per block.
const KEYS: usize = 512;
/// Minimum number of tasks of the reverse pass. If there are fewer heads, their keys are split. The
/// number is fixed, so that the order of summation is the same on every machine.
const TASKS: usize = 8;

/// The tokens of one head of one item: `count` rows that are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    /// The rows of `item` in a tensor (items, tokens, channels), from channel `first` on.
    pub fn new(x: &'a [f32], (tokens, channels): (usize, usize), item: usize, first: usize) -> Rows<'a> {
        Rows { values: &x[item * tokens * channels + first..], stride: channels, count: tokens }
    }

    fn from(self, row: usize) -> Rows<'a> {
        Rows { values: &self.values[row * self.stride..], count: self.count - row, ..self }
    }
}

/// Sizes that all heads share.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub items: usize,
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// A query sees only the keys up to its own position.
    pub causal: bool,
}

impl Heads {
    fn scale(&self) -> f32 {
        (self.d as f32).sqrt().recip()
    }

    /// Computes o (items, queries, heads d) and lse (items, heads, queries). `qkv` returns q, k and
    /// v of an (item, head).
    pub fn forward<'a>(&self, qkv: impl Fn(usize, usize) -> [Rows<'a>; 3] + Sync, out: &mut [f32], lse: &mut [f32]) {
        let (d, heads) = (self.d, self.heads);
        let tokens = lse.len() / (self.items * heads);
        let blocks = tokens.div_ceil(QUERIES);
        let of = |task: usize| (task / blocks / heads, task / blocks % heads, task % blocks * QUERIES);
        let results: Vec<(Vec<f32>, Vec<f32>)> = (0..self.items * heads * blocks)
            .into_par_iter()
            .map(|task| {
                let (item, head, row) = of(task);
                self.forward_block(qkv(item, head), row)
            })
            .collect();
        for (task, (o, l)) in results.into_iter().enumerate() {
            let (item, head, row) = of(task);
            lse[(item * heads + head) * tokens + row..][..l.len()].copy_from_slice(&l);
            for (r, o) in o.chunks(d).enumerate() {
                out[((item * tokens + row + r) * heads + head) * d..][..d].copy_from_slice(o);
            }
        }
    }

    /// The block of queries that starts at `row`, against all keys, with a running maximum and sum
    /// (online softmax).
    fn forward_block(&self, [q, k, v]: [Rows<'_>; 3], row: usize) -> (Vec<f32>, Vec<f32>) {
        let (d, q) = (self.d, q.from(row));
        let rows = QUERIES.min(q.count);
        let mut out = vec![0f32; rows * d];
        let mut largest = vec![f32::NEG_INFINITY; rows];
        let mut sums = vec![0f32; rows];
        let mut scores = vec![0f32; rows * KEYS];
        for from in (0..k.count).step_by(KEYS) {
            let (k, v) = (k.from(from), v.from(from));
            let keys = KEYS.min(k.count);
            matmul(
                (rows, keys, d),
                &mut scores,
                (KEYS, 1),
                false,
                q.values,
                (q.stride, 1),
                k.values,
                (1, k.stride),
                self.scale(),
            );
            for r in 0..rows {
                let row_scores = &mut scores[r * KEYS..][..keys];
                self.hide_later(row_scores, row + r, from);
                let shrink = online_softmax(row_scores, &mut largest[r], &mut sums[r]);
                out[r * d..(r + 1) * d].iter_mut().for_each(|o| *o *= shrink);
            }
            matmul((rows, d, keys), &mut out, (d, 1), true, &scores, (KEYS, 1), v.values, (v.stride, 1), 1.0);
        }
        for (o, s) in out.chunks_mut(d).zip(&sums) {
            o.iter_mut().for_each(|o| *o /= s);
        }
        (out, largest.iter().zip(&sums).map(|(m, s)| m + s.ln()).collect())
    }

    /// Causal mask. Later keys get a large negative score rather than -inf: a block may hold masked
    /// keys only, and the softmax over nothing but -inf is NaN.
    fn hide_later(&self, scores: &mut [f32], query: usize, first_key: usize) {
        if self.causal {
            let visible = (query + 1).saturating_sub(first_key).min(scores.len());
            scores[visible..].fill(-1e30);
        }
    }

    /// dq, dk and dv, each (tokens, d), of every (item, head). `qkv` returns q, k and v of an
    /// (item, head); `dout_out` returns do and o.
    pub fn reverse<'a>(
        &self,
        qkv: impl Fn(usize, usize) -> [Rows<'a>; 3] + Sync,
        dout_out: impl Fn(usize, usize) -> [Rows<'a>; 2] + Sync,
        lse: &[f32],
    ) -> Vec<[Vec<f32>; 3]> {
        let all = self.items * self.heads;
        let tokens = lse.len() / all;
        let keys = qkv(0, 0)[1].count;
        let parts = (TASKS / all).clamp(1, keys.div_ceil(KEYS));
        let part = keys.div_ceil(parts).next_multiple_of(KEYS.min(keys));
        let parts = keys.div_ceil(part);
        let mut results: Vec<[Vec<f32>; 3]> = (0..all * parts)
            .into_par_iter()
            .map(|task| {
                let (item, head, from) = (task / parts / self.heads, task / parts % self.heads, task % parts * part);
                let lse = &lse[(item * self.heads + head) * tokens..][..tokens];
                self.reverse_part(qkv(item, head), dout_out(item, head), lse, from..keys.min(from + part))
            })
            .collect();
        // dq is the sum over the parts, in order; dk and dv of the parts follow each other.
        results
            .chunks_mut(parts)
            .map(|parts| {
                let mut whole = std::mem::take(&mut parts[0]);
                for [dq, dk, dv] in &parts[1..] {
                    whole[0].iter_mut().zip(dq).for_each(|(sum, v)| *sum += v);
                    whole[1].extend(dk);
                    whole[2].extend(dv);
                }
                whole
            })
            .collect()
    }

    /// For the keys in `part`: their contribution to dq, and their dk and dv.
    fn reverse_part(
        &self,
        [q, k, v]: [Rows<'_>; 3],
        [dout, out]: [Rows<'_>; 2],
        lse: &[f32],
        part: std::ops::Range<usize>,
    ) -> [Vec<f32>; 3] {
        let d = self.d;
        let mut dq = vec![0f32; q.count * d];
        let [mut dk, mut dv] = [(); 2].map(|_| vec![0f32; part.len() * d]);
        let dot = |r: usize| -> f32 {
            let [a, b] = [dout, out].map(|x| &x.values[r * x.stride..][..d]);
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        };
        let delta: Vec<f32> = (0..q.count).map(dot).collect();
        let (mut p, mut ds) = (vec![0f32; QUERIES * KEYS], vec![0f32; QUERIES * KEYS]);
        for from in part.clone().step_by(KEYS) {
            let keys = KEYS.min(part.end - from);
            let (k, v) = (k.from(from), v.from(from));
            for row in (0..q.count).step_by(QUERIES) {
                let (q, dout) = (q.from(row), dout.from(row));
                let rows = QUERIES.min(q.count);
                let (qs, ds_) = ((q.stride, 1), (dout.stride, 1));
                matmul((rows, keys, d), &mut p, (KEYS, 1), false, q.values, qs, k.values, (1, k.stride), self.scale());
                matmul((rows, keys, d), &mut ds, (KEYS, 1), false, dout.values, ds_, v.values, (1, v.stride), 1.0);
                for r in 0..rows {
                    let (p, ds) = (&mut p[r * KEYS..][..keys], &mut ds[r * KEYS..][..keys]);
                    self.hide_later(p, row + r, from);
                    probabilities_and_slopes(p, ds, lse[row + r], delta[row + r], self.scale());
                }
                let at = (from - part.start) * d;
                matmul((keys, d, rows), &mut dv[at..], (d, 1), true, &p, (1, KEYS), dout.values, ds_, 1.0);
                matmul((keys, d, rows), &mut dk[at..], (d, 1), true, &ds, (1, KEYS), q.values, qs, 1.0);
                matmul((rows, d, keys), &mut dq[row * d..], (d, 1), true, &ds, (KEYS, 1), k.values, (k.stride, 1), 1.0);
            }
        }
        [dq, dk, dv]
    }
}

vectorised! {
    /// Replaces a row of scores by exp(score - maximum), where the maximum includes all keys so
    /// far. Returns the factor that rescales the sums of earlier keys to the new maximum.
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
    /// Writes p = exp(s - lse) over s, and dS = p (dp - delta) scale over dp.
    fn probabilities_and_slopes(p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p - lse);
            *ds = *p * (*ds - delta) * scale;
        }
    }
}
