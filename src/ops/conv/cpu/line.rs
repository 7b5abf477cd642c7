//! A line of output pixels of a convolution, computed in register tiles.

use super::super::problem::{DirectConv, Geometry};
use pulp::Simd;

/// Floats of the largest register tile: 6 pixels x 4 vectors or 12 x 2, with 16 floats per vector.
pub(super) const TILE: usize = 24 * 16;

/// Consecutive output pixels, (pixels, channels), and what is added to the sums of products.
pub(super) struct Outputs<'a> {
    /// The values; with `adds_to_out` the addend beforehand.
    pub out: &'a mut [f32],
    pub adds_to_out: bool,
    /// Same shape as `out`.
    pub addend: Option<&'a [f32]>,
    /// One value per channel.
    pub bias: Option<&'a [f32]>,
    /// One value per channel, those of the item that the pixels belong to.
    pub item_bias: Option<&'a [f32]>,
    pub channels: usize,
}

impl<'a> Outputs<'a> {
    /// `out` holds the outputs of a convolution from pixel `first` on, all of one item if the
    /// convolution has a bias for each item.
    pub fn new(conv: &'a DirectConv<'_>, first: usize, out: &'a mut [f32]) -> Outputs<'a> {
        let (rows, columns, channels) = conv.geometry.output;
        let item = first / (rows * columns);
        Outputs {
            adds_to_out: conv.addend_in_out,
            addend: conv.addend.map(|a| &a[first * channels..][..out.len()]),
            bias: conv.bias,
            item_bias: conv.item_bias.map(|b| &b[item * channels..][..channels]),
            channels,
            out,
        }
    }

    pub fn pixels(&self) -> usize {
        self.out.len() / self.channels
    }

    /// Adds addend and biases to a vector of sums for a pixel and the channels from `first` on, and
    /// stores it. Sums beyond the last channel are dropped.
    #[inline(always)]
    pub fn finish<S: Simd>(&mut self, simd: S, first: usize, sum: S::f32s, pixel: usize) {
        match self.channels.saturating_sub(first) {
            valid if valid >= S::F32_LANES => self.finish_lanes::<S, true>(simd, first, sum, pixel, S::F32_LANES),
            0 => {}
            valid => self.finish_lanes::<S, false>(simd, first, sum, pixel, valid),
        }
    }

    #[inline(always)]
    fn finish_lanes<S: Simd, const WHOLE: bool>(
        &mut self,
        simd: S,
        first: usize,
        mut sum: S::f32s,
        pixel: usize,
        lanes: usize,
    ) {
        let at = pixel * self.channels + first;
        let out = &mut self.out[at..][..lanes];
        // SAFETY: all slices have `lanes` values.
        unsafe {
            if self.adds_to_out {
                sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, out.as_ptr(), lanes));
            } else if let Some(addend) = self.addend {
                sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, addend[at..][..lanes].as_ptr(), lanes));
            }
            if let Some(bias) = self.bias {
                sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, bias[first..][..lanes].as_ptr(), lanes));
            }
            if let Some(bias) = self.item_bias {
                sum = simd.add_f32s(sum, load::<S, WHOLE>(simd, bias[first..][..lanes].as_ptr(), lanes));
            }
            store::<S, WHOLE>(simd, out.as_mut_ptr(), lanes, sum);
        }
    }
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
    tile_rows(largest, left)
}

/// Rows of the next register tile: at most `largest`, and not more than are left.
#[inline(always)]
pub(super) fn tile_rows(largest: usize, left: usize) -> usize {
    // Two rows leave half of the multipliers idle, so eight are two fours.
    let largest = if left == 8 && largest == 6 { 4 } else { largest };
    [largest, 4, 2, 1].into_iter().find(|&q| q <= left).unwrap_or(1)
}

/// Computes `width` outputs, from output `first` on, from the padded input rows under them.
#[inline(always)]
pub(super) fn run_line<S: Simd>(
    simd: S,
    geometry: &Geometry,
    block: &Block<'_>,
    rows: &[&[f32]],
    (first, width): (usize, usize),
    outputs: &mut Outputs<'_>,
) {
    let (run, pixel) = (geometry.kernel * geometry.input.2, geometry.stride * geometry.input.2);
    let mut tile = [0f32; TILE];
    let mut p = 0;
    while p < width {
        let pixels = tile_pixels::<S>(block.vectors, width - p);
        tile_sums(simd, (block.vectors, pixels), rows, p * pixel, run, pixel, block.values, &mut tile);
        for q in 0..pixels {
            for v in 0..block.vectors {
                let sum = &tile[(q * block.vectors + v) * S::F32_LANES..][..S::F32_LANES];
                // SAFETY: the slice has the length of a vector.
                let sum = unsafe { load::<S, true>(simd, sum.as_ptr(), S::F32_LANES) };
                outputs.finish(simd, block.first + v * S::F32_LANES, sum, first + p + q);
            }
        }
        p += pixels;
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
    tile: &mut [f32],
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
    tile: &mut [f32],
) {
    let lanes = S::F32_LANES;
    assert!(tile.len() >= P * V * lanes);
    let mut acc = [[simd.splat_f32s(0.0); V]; P];
    let mut w = weight.as_ptr();
    for row in rows {
        // Six pixels have a register each for their address.
        let mut pixels = [row.as_ptr().wrapping_add(at); P];
        for (p, x) in pixels.iter_mut().enumerate() {
            *x = x.wrapping_add(p * pixel);
        }
        for k in 0..run {
            // SAFETY: the caller's contract.
            unsafe {
                let mut vectors = [simd.splat_f32s(0.0); V];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = w.add(v * lanes).cast::<S::f32s>().read_unaligned();
                }
                for (p, sums) in acc.iter_mut().enumerate() {
                    let value = simd.splat_f32s(if P <= 6 { *pixels[p].add(k) } else { *pixels[0].add(k + p * pixel) });
                    for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                        *sum = simd.mul_add_e_f32s(value, vector, *sum);
                    }
                }
                w = w.add(V * lanes);
            }
        }
    }
    for (p, sums) in acc.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: the assertion above.
            unsafe { tile.as_mut_ptr().add((p * V + v) * lanes).cast::<S::f32s>().write_unaligned(*sum) };
        }
    }
}
