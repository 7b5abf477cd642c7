//! Convolution as an implicit matrix product: there is no im2col buffer, only a few zero-padded
//! rows of the input.
//!
//! In N, H, W, C order the `kernel * cin` values under one kernel row are contiguous. One output
//! pixel is therefore `kernel` dot products with contiguous rows. A register tile of P pixels by V
//! vectors of output channels needs V vector loads of weights and P broadcasts for P * V
//! multiply-adds. Weights are packed into blocks of V vectors on every call. This costs 1 % of the
//! time of a large image and a tenth of that of 8x8 pixels; keeping packed weights would double the
//! memory for weights.

use super::super::problem::{DirectConv, Geometry, Spread, WeightOrder};
use super::line::{Block, Outputs, run_line};
use super::winograd;
use crate::backend::cpu::parallel::Scratch;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Maximum number of floats in the padded rows of one task: half of a typical second-level cache.
const ROWS_BUFFER: usize = 1 << 17;
/// Floats of the input of a 1x1 convolution that all output channels read before the next: half of
/// a typical first-level cache.
const LINE: usize = 1 << 12;
/// Rows of the largest kernel.
const LARGEST: usize = 5;

impl DirectConv<'_> {
    /// Runs on all cores.
    pub fn run(self, out: &mut [f32]) {
        Arch::new().dispatch(Run { conv: &self, out });
    }
}

struct Run<'a, 'b> {
    conv: &'a DirectConv<'b>,
    out: &'a mut [f32],
}

impl WithSimd for Run<'_, '_> {
    type Output = ();
    fn with_simd<S: Simd>(self, _: S) {
        let g = self.conv.geometry;
        let packed = Packed::new::<S>(self.conv);
        let (ho, wo, co) = g.output;
        // A 1x1 convolution is a matrix product: all pixels form one row.
        if g.kernel == 1 && g.stride == 1 && g.spread == Spread::Dense && self.conv.item_bias.is_none() {
            let pixels = g.n * ho * wo;
            let part = pixels.div_ceil(rayon::current_num_threads() * 4).next_multiple_of(12);
            self.out.par_chunks_mut(part * co).enumerate().for_each(|(k, out)| {
                let from = k * part;
                let x = &self.conv.x[from * g.input.2..];
                let outputs = Outputs::new(self.conv, from, out);
                Arch::new().dispatch(Line { geometry: &g, packed: &packed, x, outputs });
            });
            return;
        }
        let threads = rayon::current_num_threads();
        let columns = g.input.1 * if g.spread == Spread::Dense { 1 } else { 2 } + 2;
        let padded = columns * g.input.2;
        let largest = (ROWS_BUFFER / (padded * g.stride)).max(4);
        let rounds = (g.n * ho).div_ceil(largest * threads);
        // Winograd computes two rows at a time.
        let part = (g.n * ho).div_ceil(rounds * threads).next_multiple_of(if g.winograd() { 2 } else { 1 }).min(ho);
        let tasks: Vec<(usize, usize, &mut [f32])> = (self.out.chunks_mut(ho * wo * co).enumerate())
            .flat_map(|(n, item)| item.chunks_mut(part * wo * co).enumerate().map(move |(k, out)| (n, k * part, out)))
            .collect();
        tasks.into_par_iter().for_each(|(n, first_row, out)| {
            Arch::new().dispatch(Rows { conv: self.conv, packed: &packed, n, first_row, out });
        });
    }
}

/// Weights in the order in which the register tile reads them: (block of output channels, kernel
/// row, value, channel), or for Winograd (block, product, channel).
struct Packed {
    /// The buffer may be longer than the blocks. Beyond the last output channel it holds old
    /// values; sums with them are dropped.
    values: Scratch,
    /// For each block: first output channel, number of vectors.
    blocks: Vec<(usize, usize)>,
    lanes: usize,
    depth: usize,
}

impl Packed {
    fn new<S: Simd>(conv: &DirectConv<'_>) -> Packed {
        let lanes = S::F32_LANES;
        let g = conv.geometry;
        let (cin, co, taps) = (g.input.2, g.output.2, g.kernel * g.kernel);
        let winograd = g.winograd();
        let depth = if winograd { winograd::PRODUCTS * cin } else { taps * cin };
        let outputs = if conv.order == WeightOrder::Forward { co } else { cin };
        let row = conv.weight.len() / (outputs * taps);
        let widest = if lanes >= 16 { 4 } else { 2 };
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < co {
            let vectors = (co - first).div_ceil(lanes).min(widest);
            blocks.push((first, vectors));
            first += vectors * lanes;
        }
        let mut values = Scratch::new(first * depth);
        let mut rest = &mut values[..];
        let mut parts = Vec::new();
        for &(first, vectors) in &blocks {
            let (head, tail) = rest.split_at_mut(vectors * lanes * depth);
            parts.push((first, vectors * lanes, head));
            rest = tail;
        }
        parts.into_par_iter().for_each(|(first, width, to)| {
            let valid = width.min(co - first);
            let mut direct = if winograd { vec![0f32; width * taps * cin] } else { Vec::new() };
            let part = if winograd { &mut direct[..] } else { &mut *to };
            match conv.order {
                WeightOrder::Forward => {
                    for tap in 0..taps {
                        let part = &mut part[tap * cin * width..][..cin * width];
                        let from = |c: usize| ((first + c) * taps + tap) * row + conv.channels.start;
                        for (k, to) in part.chunks_mut(width).enumerate() {
                            to[..valid].iter_mut().enumerate().for_each(|(c, to)| *to = conv.weight[from(c) + k]);
                        }
                    }
                }
                WeightOrder::Transposed => {
                    // In the transposed order, `cin` counts the output channels of the forward
                    // convolution and `co` its input channels.
                    for tap in 0..taps {
                        for c in 0..cin {
                            let source = &conv.weight[(c * taps + taps - 1 - tap) * row..][conv.channels.clone()];
                            let source = &source[first..][..valid];
                            part[(tap * cin + c) * width..][..valid].copy_from_slice(source);
                        }
                    }
                }
            };
            if winograd {
                winograd::transform_weights(&direct, width * cin, to);
            }
        });
        Packed { values, blocks, lanes, depth }
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'_>> + Clone {
        let mut at = 0;
        self.blocks.iter().map(move |&(first, vectors)| {
            let values = &self.values[at..][..vectors * self.lanes * self.depth];
            at += values.len();
            Block { first, vectors, values }
        })
    }
}

/// Consecutive output rows of one batch item.
struct Rows<'a, 'b> {
    conv: &'a DirectConv<'b>,
    packed: &'a Packed,
    n: usize,
    first_row: usize,
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let g = self.conv.geometry;
        let (hi, wi, ci) = g.input;
        let (_, wo, co) = g.output;
        let pad = g.pad;
        let rows = self.out.len() / (wo * co);
        let first_pixel = (self.n * g.output.0 + self.first_row) * wo;
        let mut outputs = Outputs::new(self.conv, first_pixel, self.out);
        let item = &self.conv.x[self.n * hi * wi * ci..][..hi * wi * ci];
        if g.winograd() {
            return winograd::run_rows(simd, &g, self.packed.blocks(), item, self.first_row, &mut outputs);
        }
        // Padded columns that the kernel touches, including the zeros of an input spread by the
        // stride.
        let columns = (wo - 1) * g.stride + g.kernel;
        let count = (rows - 1) * g.stride + g.kernel;
        let length = columns * ci;
        let mut buffer = Scratch::new(count * length);
        for (r, row) in buffer[..count * length].chunks_mut(length).enumerate() {
            row.fill(0.0);
            let Some(y) = (self.first_row * g.stride + r).checked_sub(pad) else { continue };
            let y = match g.spread {
                Spread::Dense => y,
                Spread::Zeros if y % 2 != 0 => continue,
                Spread::Zeros | Spread::Repeat => y / 2,
            };
            if y >= hi {
                continue;
            }
            pad_row(&g, &item[y * wi * ci..][..wi * ci], row);
        }
        for block in self.packed.blocks() {
            for r in 0..rows {
                let mut under: [&[f32]; LARGEST] = [&[]; LARGEST];
                for (k, row) in under.iter_mut().take(g.kernel).enumerate() {
                    *row = &buffer[(r * g.stride + k) * length..][..length];
                }
                run_line(simd, &g, &block, &under[..g.kernel], (r * wo, wo), &mut outputs);
            }
        }
    }
}

/// Copies a row of the input between its padding; the padding is not written.
#[inline(always)]
fn pad_row(g: &Geometry, source: &[f32], row: &mut [f32]) {
    let ((_, wi, ci), pad) = (g.input, g.pad);
    if g.spread == Spread::Dense {
        let here = wi.min(row.len() / ci - pad) * ci;
        row[pad * ci..][..here].copy_from_slice(&source[..here]);
        return;
    }
    let copies = if g.spread == Spread::Zeros { 1 } else { 2 };
    for (x, pixel) in source.chunks(ci).enumerate() {
        for column in (pad + 2 * x)..(pad + 2 * x + copies) {
            if let Some(to) = row.get_mut(column * ci..(column + 1) * ci) {
                to.copy_from_slice(pixel);
            }
        }
    }
}

/// Consecutive output pixels of a 1x1 convolution.
struct Line<'a, 'b> {
    geometry: &'a Geometry,
    packed: &'a Packed,
    x: &'a [f32],
    outputs: Outputs<'b>,
}

impl WithSimd for Line<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (all, ci) = (self.outputs.pixels(), self.geometry.input.2);
        let some = (LINE / ci).next_multiple_of(12);
        for first in (0..all).step_by(some) {
            let row = &self.x[first * ci..];
            for block in self.packed.blocks() {
                run_line(simd, self.geometry, &block, &[row], (first, some.min(all - first)), &mut self.outputs);
            }
        }
    }
}
