//! Winograd's F(2x2, 3x3) for a 3x3 convolution with stride 1 (Lavin & Gray 2016, section 4.1):
//! four neighbouring outputs take 16 products per channel instead of 36.
//!
//! Along one axis, with d0..d3 the inputs at two neighbouring outputs and g0..g2 the weights,
//!   m0 = (d0 - d2) g0,  m1 = (d1 + d2) (g0 + g1 + g2) / 2,
//!   m2 = (d2 - d1) (g0 - g1 + g2) / 2,  m3 = (d1 - d3) g2,
//!   y0 = m0 + m1 + m2,  y1 = m1 - m2 - m3.
//! Both axes are transformed like this, and the products are summed over the channels before they
//! are combined. All factors are 1 and 1/2, so the rounding error is close to that of the plain
//! sums. Larger patches save more products but round several times worse.

use super::super::problem::{Geometry, Spread};
use super::line::{Block, Outputs, load, store, tile_pixels, tile_sums};
use crate::backend::cpu::parallel::Scratch;
use pulp::Simd;
use std::array::from_fn;

/// Products per axis.
const AXIS: usize = 4;
/// Products per channel.
pub(super) const PRODUCTS: usize = AXIS * AXIS;
/// Floats of transformed patches in memory at a time: an eighth of a typical second-level cache.
const PATCHES: usize = 1 << 15;
/// For large weights more patches are transformed at once, so that a weight read from memory is
/// used many times: one patch per WEIGHTS_PER_PATCH floats, at most MOST_PATCHES.
const WEIGHTS_PER_PATCH: usize = 1 << 14;
const MOST_PATCHES: usize = 96;
/// Floats of products in memory at a time: a quarter of a typical first-level cache.
const SUMS: usize = 1 << 11;

/// Transforms weights (3, 3, run) to (PRODUCTS, run), where `run` is the number of weights of one
/// tap.
pub(super) fn transform_weights(direct: &[f32], run: usize, out: &mut [f32]) {
    let mut rows = vec![0f32; 3 * AXIS * run]; // (AXIS, 3, run)
    for y in 0..3 {
        weights_of_axis(&direct[3 * y * run..], run, &mut rows[y * run..], 3 * run);
    }
    for x in 0..AXIS {
        weights_of_axis(&rows[3 * x * run..], run, &mut out[x * run..], AXIS * run);
    }
}

/// Transforms the weights of one axis: three consecutive runs become AXIS runs that start `step`
/// apart.
fn weights_of_axis(from: &[f32], run: usize, to: &mut [f32], step: usize) {
    let [g0, g1, g2] = [0, 1, 2].map(|k| &from[k * run..][..run]);
    to[..run].copy_from_slice(g0);
    to[3 * step..][..run].copy_from_slice(g2);
    let (plus, minus) = to[step..].split_at_mut(step);
    let (plus, minus) = (&mut plus[..run], &mut minus[..run]);
    for i in 0..run {
        let (outer, inner) = (0.5 * (g0[i] + g2[i]), 0.5 * g1[i]);
        plus[i] = outer + inner;
        minus[i] = outer - inner;
    }
}

/// The pixels of one item on the grid that the kernel moves over.
struct Grid<'a> {
    geometry: &'a Geometry,
    item: &'a [f32],
    /// What lies around the image, one value per channel.
    zeros: Vec<f32>,
}

impl Grid<'_> {
    /// The row or column of the image at a grid position, counted with the padding.
    #[inline(always)]
    fn source(&self, at: usize, side: usize) -> Option<usize> {
        let at = at.checked_sub(self.geometry.pad)?;
        let at = match self.geometry.spread {
            Spread::Dense => at,
            Spread::Zeros if at % 2 != 0 => return None,
            Spread::Zeros | Spread::Repeat => at / 2,
        };
        (at < side).then_some(at)
    }

    /// The pixels of a patch whose first one has this row and column.
    #[inline(always)]
    fn patch(&self, row: usize, column: usize) -> [[*const f32; AXIS]; AXIS] {
        let (height, width, ci) = self.geometry.input;
        // Arrays of a fixed size: iterators over them would go through memory at every step, which
        // took a sixth of the time of all convolutions of a training step, by `perf`.
        let zeros = self.zeros.as_ptr();
        let columns: [Option<usize>; AXIS] = from_fn(|k| self.source(column + k, width));
        from_fn(|k| match self.source(row + k, height) {
            None => [zeros; AXIS],
            Some(row) => {
                let line = self.item[row * width * ci..][..width * ci].as_ptr();
                from_fn(|k| columns[k].map_or(zeros, |column| line.wrapping_add(column * ci)))
            }
        })
    }
}

/// Transforms a patch of pixels with `ci` channels. Product k of the patch goes to `k * plane`.
///
/// # Safety
/// Every pixel holds `ci` values, and `ci` values can be written at every plane.
#[inline(always)]
unsafe fn transform_patch<S: Simd>(
    simd: S,
    pixels: [[*const f32; AXIS]; AXIS],
    ci: usize,
    planes: *mut f32,
    plane: usize,
) {
    let whole = ci - ci % S::F32_LANES;
    // SAFETY: the caller's contract.
    unsafe {
        for c in (0..whole).step_by(S::F32_LANES) {
            transform_vector::<S, true>(simd, &pixels, c, planes, plane, S::F32_LANES);
        }
        if whole < ci {
            transform_vector::<S, false>(simd, &pixels, whole, planes, plane, ci - whole);
        }
    }
}

/// Transforms the channels of a patch from `c` on: a vector, or only its first `lanes` values.
///
/// # Safety
/// As that of [`transform_patch`].
#[inline(always)]
unsafe fn transform_vector<S: Simd, const WHOLE: bool>(
    simd: S,
    pixels: &[[*const f32; AXIS]; AXIS],
    c: usize,
    planes: *mut f32,
    plane: usize,
    lanes: usize,
) {
    let mut d = [[simd.splat_f32s(0.0); AXIS]; AXIS];
    // SAFETY: the caller's contract.
    unsafe {
        for (d, row) in d.iter_mut().zip(pixels) {
            for (d, pixel) in d.iter_mut().zip(row) {
                *d = load::<S, WHOLE>(simd, pixel.add(c), lanes);
            }
            *d = transform_axis(simd, *d);
        }
        let [d0, d1, d2, d3] = d;
        for x in 0..AXIS {
            let column = transform_axis(simd, [d0[x], d1[x], d2[x], d3[x]]);
            for (y, value) in column.into_iter().enumerate() {
                store::<S, WHOLE>(simd, planes.add((AXIS * y + x) * plane + c), lanes, value);
            }
        }
    }
}

/// The inputs d0..d3 of one axis, transformed to the factors of its weights.
#[inline(always)]
fn transform_axis<S: Simd>(simd: S, d: [S::f32s; AXIS]) -> [S::f32s; AXIS] {
    [simd.sub_f32s(d[0], d[2]), simd.add_f32s(d[1], d[2]), simd.sub_f32s(d[2], d[1]), simd.sub_f32s(d[1], d[3])]
}

/// Computes output rows of one item, an even number of them or up to the last one. `item` is its
/// input, `first_row` the first output row.
#[inline(always)]
pub(super) fn run_rows<'b, S: Simd>(
    simd: S,
    geometry: &Geometry,
    blocks: impl Iterator<Item = Block<'b>> + Clone,
    item: &[f32],
    first_row: usize,
    outputs: &mut Outputs<'_>,
) {
    let ((_, _, ci), (_, wo, co)) = (geometry.input, geometry.output);
    let grid = Grid { geometry, item, zeros: vec![0.0; ci] };
    let (pairs, rows) = (wo.div_ceil(2), outputs.pixels() / wo);
    let all = pairs * rows.div_ceil(2);
    let many = (PRODUCTS * ci * co / WEIGHTS_PER_PATCH).min(MOST_PATCHES);
    let most = many.max(PATCHES / (PRODUCTS * ci)).next_multiple_of(12).min(all);
    let mut patches = Scratch::new(PRODUCTS * most * ci);
    let together = |vectors: usize| {
        (SUMS / (PRODUCTS * vectors * S::F32_LANES)).next_multiple_of(tile_pixels::<S>(vectors, usize::MAX))
    };
    let of_block = |vectors: usize| PRODUCTS * together(vectors) * vectors * S::F32_LANES;
    let mut sums = Scratch::new(blocks.clone().map(|block| of_block(block.vectors)).max().unwrap_or(0));
    for first in (0..all).step_by(most) {
        let count = most.min(all - first);
        let plane = count * ci;
        assert!(patches.len() >= PRODUCTS * plane);
        for (k, patch) in (first..first + count).enumerate() {
            let pixels = grid.patch(first_row + 2 * (patch / pairs), 2 * (patch % pairs));
            // SAFETY: all pixels have ci values; the assertion bounds the last value of the last plane.
            unsafe { transform_patch(simd, pixels, ci, patches.as_mut_ptr().add(k * ci), plane) };
        }
        for block in blocks.clone() {
            let together = together(block.vectors);
            for k in (0..count).step_by(together) {
                let here = together.min(count - k);
                multiply(simd, &block, &patches[k * ci..], (ci, plane), here, &mut sums);
                for p in 0..here {
                    let patch = first + k + p;
                    store_patch(
                        simd,
                        &block,
                        &sums,
                        (p, here),
                        (2 * (patch / pairs), 2 * (patch % pairs)),
                        wo,
                        outputs,
                    );
                }
            }
        }
    }
}

/// The products of `count` patches with the weights of a block, summed over the channels:
/// (PRODUCTS, count, channels of the block). The channels of a patch are `ci` apart, the transform
/// positions `plane`.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    block: &Block<'_>,
    patches: &[f32],
    (ci, plane): (usize, usize),
    count: usize,
    sums: &mut [f32],
) {
    let width = block.vectors * S::F32_LANES;
    for product in 0..PRODUCTS {
        let patches = &patches[product * plane..][..count * ci];
        let weights = &block.values[product * ci * width..][..ci * width];
        let sums = &mut sums[product * count * width..][..count * width];
        let mut p = 0;
        while p < count {
            let tile = tile_pixels::<S>(block.vectors, count - p);
            tile_sums(simd, (block.vectors, tile), &[patches], p * ci, ci, ci, weights, &mut sums[p * width..]);
            p += tile;
        }
    }
}

/// Stores the outputs of patch `p` of `count`, whose first one lies at this row and column.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn store_patch<S: Simd>(
    simd: S,
    block: &Block<'_>,
    sums: &[f32],
    (p, count): (usize, usize),
    (row, column): (usize, usize),
    columns: usize,
    outputs: &mut Outputs<'_>,
) {
    let (width, rows) = (block.vectors * S::F32_LANES, outputs.pixels() / columns);
    for v in (0..width).step_by(S::F32_LANES) {
        let of_patch = outputs_of_patch(simd, sums, p * width + v, count * width);
        // The bounds of the loops are constants, so that the four values stay in registers.
        for y in 0..2 {
            for x in 0..2 {
                if row + y < rows && column + x < columns {
                    let pixel = (row + y) * columns + column + x;
                    outputs.finish(simd, block.first + v, of_patch[y][x], pixel);
                }
            }
        }
    }
}

/// The 2x2 outputs of a patch, from its products at `at` in planes of `plane` values.
#[inline(always)]
fn outputs_of_patch<S: Simd>(simd: S, sums: &[f32], at: usize, plane: usize) -> [[S::f32s; 2]; 2] {
    assert!(sums.len() >= at + (PRODUCTS - 1) * plane + S::F32_LANES);
    let zero = simd.splat_f32s(0.0);
    let (mut left, mut right) = ([zero; AXIS], [zero; AXIS]);
    for y in 0..AXIS {
        let mut row = [zero; AXIS];
        for (x, product) in row.iter_mut().enumerate() {
            // SAFETY: the assertion above bounds the last product.
            *product = unsafe { load::<S, true>(simd, sums.as_ptr().add(at + (AXIS * y + x) * plane), S::F32_LANES) };
        }
        [left[y], right[y]] = outputs_of_axis(simd, row);
    }
    let ([a, c], [b, d]) = (outputs_of_axis(simd, left), outputs_of_axis(simd, right));
    [[a, b], [c, d]]
}

/// The two outputs of one axis, from its products.
#[inline(always)]
fn outputs_of_axis<S: Simd>(simd: S, m: [S::f32s; AXIS]) -> [S::f32s; 2] {
    let both = simd.add_f32s(m[1], m[2]);
    [simd.add_f32s(m[0], both), simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3])]
}
