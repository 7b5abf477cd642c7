//! A line of output pixels of a convolution, computed in register tiles.

use super::super::problem::DirectConv;
use pulp::Simd;

/// Floats of the largest register tile: 6 pixels x 4 vectors or 12 x 2, with 16 floats per vector.
pub(super) const TILE: usize = 24 * 16;

/// Consecutive output pixels.
pub(super) struct Line<'a> {
    pub width: usize,
    pub first_pixel: usize,
    pub out: &'a mut [f32],
}

/// Packed weights of `vectors` vectors of output channels, starting at channel `first`.
pub(super) struct Block<'a> {
    pub first: usize,
    pub vectors: usize,
    pub values: &'a [f32],
}

/// Pixels of the next register tile: as many as the registers hold, or fewer near the end of a
/// line.
#[inline(always)]
pub(super) fn tile_pixels<S: Simd>(vectors: usize, left: usize) -> usize {
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

/// Computes a line from the padded input rows under it.
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
            for v in 0..block.vectors {
                let sum = &tile[q * width + v * S::F32_LANES..][..S::F32_LANES];
                // SAFETY: the slice has the length of a vector.
                let sum = unsafe { load::<S, true>(simd, sum.as_ptr(), S::F32_LANES) };
                finish(simd, conv, block.first + v * S::F32_LANES, sum, p + q, &mut line);
            }
        }
        p += pixels;
    }
    add_item_bias(conv, block.first, width, &mut line);
}

/// Adds addend and bias to a vector of sums for pixel `p` and the channels from `first` on, and
/// stores it.
#[inline(always)]
pub(super) fn finish<S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    first: usize,
    sum: S::f32s,
    pixel: usize,
    line: &mut Line<'_>,
) {
    let valid = conv.geometry.output.2.saturating_sub(first);
    match valid >= S::F32_LANES {
        true => finish_lanes::<S, true>(simd, conv, first, sum, pixel, line, S::F32_LANES),
        false if valid > 0 => finish_lanes::<S, false>(simd, conv, first, sum, pixel, line, valid),
        false => {}
    }
}

#[inline(always)]
fn finish_lanes<S: Simd, const WHOLE: bool>(
    simd: S,
    conv: &DirectConv<'_>,
    first: usize,
    mut sum: S::f32s,
    pixel: usize,
    line: &mut Line<'_>,
    lanes: usize,
) {
    let co = conv.geometry.output.2;
    let out = &mut line.out[pixel * co + first..][..lanes];
    let addend = conv.addend.map(|a| &a[(line.first_pixel + pixel) * co + first..][..lanes]);
    let bias = conv.bias.map(|b| &b[first..][..lanes]);
    // SAFETY: all slices have `lanes` values.
    unsafe {
        if conv.addend_in_out {
            sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, out.as_ptr(), lanes));
        } else if let Some(addend) = addend {
            sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, addend.as_ptr(), lanes));
        }
        if let Some(bias) = bias {
            sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, bias.as_ptr(), lanes));
        }
        store::<S, WHOLE>(simd, out.as_mut_ptr(), lanes, sum);
    }
}

/// Loads a vector, or only its first `lanes` values.
///
/// # Safety
/// `lanes` values can be read; if WHOLE, a full vector can be read.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const WHOLE: bool>(simd: S, from: *const f32, lanes: usize) -> S::f32s {
    // SAFETY: the caller's contract.
    unsafe {
        match WHOLE {
            true => from.cast::<S::f32s>().read_unaligned(),
            false => simd.partial_load_f32s(std::slice::from_raw_parts(from, lanes)),
        }
    }
}

/// Stores a vector, or only its first `lanes` values.
///
/// # Safety
/// `lanes` values can be written; if WHOLE, a full vector can be written.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, const WHOLE: bool>(simd: S, to: *mut f32, lanes: usize, value: S::f32s) {
    // SAFETY: the caller's contract.
    unsafe {
        match WHOLE {
            true => to.cast::<S::f32s>().write_unaligned(value),
            false => simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, lanes), value),
        }
    }
}

#[inline(always)]
pub(super) fn add_item_bias(conv: &DirectConv<'_>, first: usize, width: usize, line: &mut Line<'_>) {
    let Some(bias) = conv.item_bias else { return };
    let (rows, columns, co) = conv.geometry.output;
    let item = line.first_pixel / (rows * columns);
    let bias = &bias[item * co + first..][..width.min(co - first)];
    for out in line.out.chunks_mut(co) {
        out[first..].iter_mut().zip(bias).for_each(|(o, b)| *o += b);
    }
}

/// Calls `micro` for a tile of any shape (vectors, pixels).
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(super) fn tile_sums<S: Simd>(
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
