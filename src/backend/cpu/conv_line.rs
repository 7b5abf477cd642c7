//! A line of output pixels of a convolution, by register tiles.

use super::direct_conv::DirectConv;
use super::winograd::PRODUCTS;
use pulp::Simd;

/// Largest register tile: 6 x 4 or 12 x 2 vectors of 16.
const TILE: usize = 24 * 16;

/// Consecutive output pixels.
pub(super) struct Line<'a> {
    pub width: usize,
    pub first_pixel: usize,
    pub out: &'a mut [f32],
}

/// The weights of `vectors` vectors of output channels from `first` on.
pub(super) struct Block<'a> {
    pub first: usize,
    pub vectors: usize,
    pub values: &'a [f32],
}

/// Pixels of a register tile: the most that fit the registers, or what is left of a line.
#[inline(always)]
fn tile_pixels<S: Simd>(vectors: usize, left: usize) -> usize {
    let largest = match (S::F32_LANES >= 16, vectors) {
        (true, 1) => 14,
        (true, 2) => 12,
        (true, 3) => 8,
        (true, _) => 6,
        (false, 1) => 10,
        (false, _) => 6,
    };
    [largest, 4, 2, 1].into_iter().find(|&q| q <= left).unwrap_or(1)
}

/// A line from the rows of the input under it.
#[inline(always)]
pub(super) fn run_line<S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    block: &Block<'_>,
    rows: &[&[f32]],
    mut line: Line<'_>,
) {
    let g = conv.geometry;
    let (run, pixel, width) = (g.kernel * g.input.2, g.stride * g.input.2, block.vectors * S::F32_LANES);
    let mut tile = [0f32; TILE];
    let mut p = 0;
    while p < line.width {
        let pixels = tile_pixels::<S>(block.vectors, line.width - p);
        tile_sums(simd, (block.vectors, pixels), rows, p * pixel, run, pixel, block.values, &mut tile);
        for q in 0..pixels {
            finish(conv, block.first, &tile[q * width..][..width], p + q, &mut line);
        }
        p += pixels;
    }
    add_item_bias(conv, block.first, width, &mut line);
}

/// A line from transformed rows, two pixels at a time (winograd.rs).
#[inline(always)]
pub(super) fn run_pairs<S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    block: &Block<'_>,
    rows: &[&[f32]; 3],
    mut line: Line<'_>,
) {
    let ci = conv.geometry.input.2;
    let (pairs, width) = (line.width.div_ceil(2), block.vectors * S::F32_LANES);
    let mut m = [[0f32; TILE]; PRODUCTS];
    let mut sums = [0f32; 4 * 16];
    let mut p = 0;
    while p < pairs {
        let here = tile_pixels::<S>(block.vectors, pairs - p);
        for (t, (tile, weights)) in m.iter_mut().zip(block.values.chunks(3 * ci * width)).enumerate() {
            let rows = rows.map(|row| &row[t * pairs * ci..][..pairs * ci]);
            tile_sums(simd, (block.vectors, here), &rows, p * ci, ci, ci, weights, tile);
        }
        for q in 0..here {
            let [m0, m1, m2, m3] = [0, 1, 2, 3].map(|t| &m[t][q * width..][..width]);
            for i in 0..width {
                sums[i] = m0[i] + m1[i] + m2[i];
            }
            finish(conv, block.first, &sums[..width], 2 * (p + q), &mut line);
            if 2 * (p + q) + 1 < line.width {
                for i in 0..width {
                    sums[i] = m1[i] - m2[i] - m3[i];
                }
                finish(conv, block.first, &sums[..width], 2 * (p + q) + 1, &mut line);
            }
        }
        p += here;
    }
    add_item_bias(conv, block.first, width, &mut line);
}

/// The sums of one pixel, with addend and bias, to its place.
#[inline(always)]
fn finish(conv: &DirectConv<'_>, first: usize, sum: &[f32], pixel: usize, line: &mut Line<'_>) {
    let co = conv.geometry.output.2;
    let valid = sum.len().min(co - first);
    let (out, sum) = (&mut line.out[pixel * co + first..][..valid], &sum[..valid]);
    let addend = conv.addend.map(|a| &a[(line.first_pixel + pixel) * co + first..][..valid]);
    match (conv.addend_in_out, addend) {
        (true, _) => out.iter_mut().zip(sum).for_each(|(o, s)| *o += s),
        (false, Some(a)) => out.iter_mut().zip(sum.iter().zip(a)).for_each(|(o, (s, a))| *o = s + a),
        (false, None) => out.copy_from_slice(sum),
    }
    if let Some(bias) = conv.bias {
        out.iter_mut().zip(&bias[first..]).for_each(|(o, b)| *o += b);
    }
}

#[inline(always)]
fn add_item_bias(conv: &DirectConv<'_>, first: usize, width: usize, line: &mut Line<'_>) {
    let Some(bias) = conv.item_bias else { return };
    let (rows, columns, co) = conv.geometry.output;
    let item = line.first_pixel / (rows * columns);
    let bias = &bias[item * co + first..][..width.min(co - first)];
    for out in line.out.chunks_mut(co) {
        out[first..].iter_mut().zip(bias).for_each(|(o, b)| *o += b);
    }
}

/// `micro` for a tile of any shape: (vectors, pixels).
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn tile_sums<S: Simd>(
    simd: S,
    shape: (usize, usize),
    rows: &[&[f32]],
    at: usize,
    run: usize,
    pixel: usize,
    weight: &[f32],
    tile: &mut [f32; TILE],
) {
    for row in rows {
        assert!(row.len() >= at + (shape.1 - 1) * pixel + run);
    }
    assert!(weight.len() >= rows.len() * run * shape.0 * S::F32_LANES);
    macro_rules! tile {
        ($p:literal, $v:literal) => {
            // SAFETY: the assertions above bound every address that the tile reads.
            unsafe { micro::<S, $p, $v>(simd, rows, at, run, pixel, weight, tile) }
        };
    }
    match shape {
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
