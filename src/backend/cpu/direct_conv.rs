//! Convolution as an implicit matrix product: no im2col buffer, only a few zero-padded rows of the input.
//!
//! In N, H, W, C order the values under one kernel row, `kernel * cin` of them, are contiguous. So one output pixel is
//! `kernel` dot products with contiguous rows, and a register tile of P pixels by V vectors of output channels needs, for
//! each of those values, V vector loads of weights and P broadcasts for P * V multiply-adds.
//! Weights are packed into blocks of V vectors on every call: 1 % of the work, and half the memory of keeping them.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Largest number of floats of padded rows that one task keeps: half of a usual second-level cache.
const ROWS_BUFFER: usize = 1 << 17;
/// Largest register tile: 6 x 4 or 12 x 2 vectors of 16.
const TILE: usize = 24 * 16;

/// Which value of the weight (cout, kernel, kernel, cin) multiplies what.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WeightOrder {
    /// As stored.
    Forward,
    /// Flipped in space, input and output channels exchanged: the data gradient.
    Transposed,
}

/// How the input's pixels stand on the grid that the kernel moves over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// As they are.
    Dense,
    /// With a row and a column of zeros between: the data gradient of stride 2.
    Zeros,
    /// Each four times: nearest-neighbour doubling.
    Repeat,
}

/// Extents of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Batch items.
    pub n: usize,
    /// Input rows, columns, channels as they lie in memory.
    pub input: (usize, usize, usize),
    /// Output rows, columns, channels.
    pub output: (usize, usize, usize),
    /// 1 or 3.
    pub kernel: usize,
    /// Output pixels are `stride` input pixels apart.
    pub stride: usize,
    /// How input pixels stand.
    pub spread: Spread,
    /// Zeros before the first row and column; after the last as many as the output asks for.
    pub pad: usize,
}

/// `out = conv(x, weight) + bias + addend`; where `addend_in_out`, out holds the addend.
pub struct DirectConv<'a> {
    /// Extents.
    pub geometry: Geometry,
    /// Input.
    pub x: &'a [f32],
    /// Weights (cout, kernel, kernel, cin) as the forward convolution has them.
    pub weight: &'a [f32],
    /// Which of their input channels x (or, for the data gradient, the output) has.
    pub channels: Range<usize>,
    /// How to read them.
    pub order: WeightOrder,
    /// One per output channel.
    pub bias: Option<&'a [f32]>,
    /// One row of output channels per batch item.
    pub item_bias: Option<&'a [f32]>,
    /// Same extent as the output.
    pub addend: Option<&'a [f32]>,
    /// The output already holds the addend.
    pub addend_in_out: bool,
}

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
                let row = [&self.conv.x[from * g.input.2..]];
                let line = Line { width: out.len() / co, first_pixel: from, out };
                Arch::new().dispatch(Lines { conv: self.conv, packed: &packed, rows: &row, line });
            });
            return;
        }
        let threads = rayon::current_num_threads();
        let padded = (g.input.1 * if g.spread == Spread::Dense { 1 } else { 2 } + 2) * g.input.2;
        let largest = (ROWS_BUFFER / (padded * g.stride)).max(4);
        let rounds = (g.n * ho).div_ceil(largest * threads);
        let part = (g.n * ho).div_ceil(rounds * threads).min(ho);
        let tasks: Vec<(usize, usize, &mut [f32])> = (self.out.chunks_mut(ho * wo * co).enumerate())
            .flat_map(|(n, item)| item.chunks_mut(part * wo * co).enumerate().map(move |(k, out)| (n, k * part, out)))
            .collect();
        tasks.into_par_iter().for_each(|(n, first_row, out)| {
            Arch::new().dispatch(Rows { conv: self.conv, packed: &packed, n, first_row, out });
        });
    }
}

/// Weights in the order in which the register tile reads them: block of output channels, kernel row, value, channel.
struct Packed {
    values: Vec<f32>,
    /// Per block: first output channel, vectors.
    blocks: Vec<(usize, usize)>,
    lanes: usize,
    depth: usize,
}

impl Packed {
    fn new<S: Simd>(conv: &DirectConv<'_>) -> Packed {
        let lanes = S::F32_LANES;
        let g = conv.geometry;
        let (cin, co, taps) = (g.input.2, g.output.2, g.kernel * g.kernel);
        let depth = taps * cin;
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
        let mut values = vec![0f32; first * depth];
        let mut rest = values.as_mut_slice();
        let mut parts = Vec::new();
        for &(first, vectors) in &blocks {
            let (head, tail) = rest.split_at_mut(vectors * lanes * depth);
            parts.push((first, vectors * lanes, head));
            rest = tail;
        }
        parts.into_par_iter().for_each(|(first, width, part)| {
            let valid = width.min(co - first);
            match conv.order {
                WeightOrder::Forward => {
                    for c in 0..valid {
                        for tap in 0..taps {
                            let source = &conv.weight[((first + c) * taps + tap) * row..][conv.channels.clone()];
                            let part = &mut part[tap * cin * width..];
                            source.iter().enumerate().for_each(|(k, &w)| part[k * width + c] = w);
                        }
                    }
                }
                WeightOrder::Transposed => {
                    // Here `cin` counts the forward output channels, `co` the forward input channels.
                    for tap in 0..taps {
                        for c in 0..cin {
                            let source = &conv.weight[(c * taps + taps - 1 - tap) * row..][conv.channels.clone()];
                            let source = &source[first..][..valid];
                            part[(tap * cin + c) * width..][..valid].copy_from_slice(source);
                        }
                    }
                }
            };
        });
        Packed { values, blocks, lanes, depth }
    }
}

/// A run of output rows of one batch item.
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
        // Columns that the kernel touches, padding included, with the zeros of a dilated input.
        let columns = (wo - 1) * g.stride + g.kernel;
        let count = (rows - 1) * g.stride + g.kernel;
        let mut buffer = vec![0f32; count * columns * ci];
        for (r, row) in buffer.chunks_mut(columns * ci).enumerate() {
            let Some(y) = (self.first_row * g.stride + r).checked_sub(pad) else { continue };
            let y = match g.spread {
                Spread::Dense => y,
                Spread::Zeros if y % 2 != 0 => continue,
                Spread::Zeros | Spread::Repeat => y / 2,
            };
            if y >= hi {
                continue;
            }
            let source = &self.conv.x[((self.n * hi) + y) * wi * ci..][..wi * ci];
            if g.spread == Spread::Dense {
                let columns_here = wi.min(columns - pad);
                row[pad * ci..(pad + columns_here) * ci].copy_from_slice(&source[..columns_here * ci]);
                continue;
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
        let mut values = self.packed.values.as_slice();
        for &(first, vectors) in &self.packed.blocks {
            let block = Block { first, vectors, values };
            for (r, out) in self.out.chunks_mut(wo * co).enumerate() {
                let mut under: [&[f32]; 3] = [&[]; 3];
                for (k, row) in under.iter_mut().take(g.kernel).enumerate() {
                    *row = &buffer[(r * g.stride + k) * columns * ci..];
                }
                let first_pixel = (self.n * g.output.0 + self.first_row + r) * wo;
                let line = Line { width: wo, first_pixel, out };
                run_line(simd, self.conv, self.packed, &block, &under[..g.kernel], line);
            }
            values = &values[vectors * self.packed.lanes * self.packed.depth..];
        }
    }
}

/// Consecutive output pixels.
struct Line<'a> {
    width: usize,
    first_pixel: usize,
    out: &'a mut [f32],
}

/// One line, all blocks of output channels.
struct Lines<'a, 'b> {
    conv: &'a DirectConv<'b>,
    packed: &'a Packed,
    rows: &'a [&'a [f32]],
    line: Line<'a>,
}

impl WithSimd for Lines<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut values = self.packed.values.as_slice();
        for &(first, vectors) in &self.packed.blocks {
            let block = Block { first, vectors, values };
            let line = Line { out: &mut *self.line.out, ..self.line };
            run_line(simd, self.conv, self.packed, &block, self.rows, line);
            values = &values[vectors * self.packed.lanes * self.packed.depth..];
        }
    }
}

struct Block<'a> {
    first: usize,
    vectors: usize,
    values: &'a [f32],
}

#[inline(always)]
fn run_line<S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    packed: &Packed,
    block: &Block<'_>,
    rows: &[&[f32]],
    line: Line<'_>,
) {
    let g = conv.geometry;
    let run = g.kernel * g.input.2;
    let pixel = g.stride * g.input.2;
    let wide = S::F32_LANES >= 16;
    let largest = match (wide, block.vectors) {
        (true, 1) => 14,
        (true, 2) => 12,
        (true, 3) => 8,
        (true, _) => 6,
        (false, 1) => 10,
        (false, _) => 6,
    };
    let mut tile = [0f32; TILE];
    let mut p = 0;
    while p < line.width {
        let left = line.width - p;
        let pixels = [largest, 4, 2, 1].into_iter().find(|&q| q <= left).unwrap_or(1);
        for row in rows {
            assert!(row.len() >= (p + pixels - 1) * pixel + run);
        }
        assert!(block.values.len() >= packed.depth * block.vectors * S::F32_LANES);
        let at = p * pixel;
        // SAFETY: the two assertions above bound every address that the tile reads.
        unsafe {
            macro_rules! tile {
                ($p:literal, $v:literal) => {
                    micro::<S, $p, $v>(simd, rows, at, run, pixel, block.values, &mut tile)
                };
            }
            match (block.vectors, pixels) {
                (1, 14) => tile!(14, 1),
                (1, 10) => tile!(10, 1),
                (1, 4) => tile!(4, 1),
                (1, 2) => tile!(2, 1),
                (1, _) => tile!(1, 1),
                (2, 12) => tile!(12, 2),
                (2, 6) => tile!(6, 2),
                (2, 4) => tile!(4, 2),
                (2, 2) => tile!(2, 2),
                (2, _) => tile!(1, 2),
                (3, 8) => tile!(8, 3),
                (3, 4) => tile!(4, 3),
                (3, 2) => tile!(2, 3),
                (3, _) => tile!(1, 3),
                (_, 6) => tile!(6, 4),
                (_, 4) => tile!(4, 4),
                (_, 2) => tile!(2, 4),
                (_, _) => tile!(1, 4),
            }
        }
        let co = g.output.2;
        let width = block.vectors * S::F32_LANES;
        let valid = width.min(co - block.first);
        for q in 0..pixels {
            let at = (p + q) * co + block.first;
            let out = &mut line.out[at..at + valid];
            let sum = &tile[q * width..][..valid];
            let addend = conv.addend.map(|a| &a[(line.first_pixel + p + q) * co + block.first..][..valid]);
            match (conv.addend_in_out, addend) {
                (true, _) => out.iter_mut().zip(sum).for_each(|(o, s)| *o += s),
                (false, Some(a)) => out.iter_mut().zip(sum.iter().zip(a)).for_each(|(o, (s, a))| *o = s + a),
                (false, None) => out.copy_from_slice(sum),
            }
            if let Some(bias) = conv.bias {
                out.iter_mut().zip(&bias[block.first..]).for_each(|(o, b)| *o += b);
            }
        }
        p += pixels;
    }
    if let Some(bias) = conv.item_bias {
        let co = g.output.2;
        let item = line.first_pixel / (g.output.0 * g.output.1);
        let bias = &bias[item * co + block.first..][..(block.vectors * S::F32_LANES).min(co - block.first)];
        for out in line.out.chunks_mut(co) {
            out[block.first..].iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
    }
}

/// `tile[p][v] = sum over rows and k of row[at + p * pixel + k] * weight[row, k, v]`.
///
/// # Safety
/// Every row reaches `at + (P - 1) * pixel + run`, and `weight` holds `rows * run * V` vectors.
#[inline(always)]
unsafe fn micro<S: Simd, const P: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]],
    at: usize,
    run: usize,
    pixel: usize,
    weight: &[f32],
    tile: &mut [f32; TILE],
) {
    let lanes = S::F32_LANES;
    let mut acc = [[simd.splat_f32s(0.0); V]; P];
    let mut w = weight.as_ptr();
    for row in rows {
        // SAFETY: the caller's contract.
        unsafe {
            let mut x = row.as_ptr().add(at);
            for _ in 0..run {
                let mut vectors = [simd.splat_f32s(0.0); V];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = w.add(v * lanes).cast::<S::f32s>().read_unaligned();
                }
                for (p, sums) in acc.iter_mut().enumerate() {
                    let value = simd.splat_f32s(*x.add(p * pixel));
                    for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                        *sum = simd.mul_add_e_f32s(value, vector, *sum);
                    }
                }
                x = x.add(1);
                w = w.add(V * lanes);
            }
        }
    }
    assert!(P * V * lanes <= TILE);
    for (p, sums) in acc.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: the assertion above.
            unsafe { tile.as_mut_ptr().add((p * V + v) * lanes).cast::<S::f32s>().write_unaligned(*sum) };
        }
    }
}
