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

use super::super::problem::DirectConv;
use super::line::{Block, Line, TILE, add_item_bias, finish, load, store, tile_pixels, tile_sums};
use pulp::Simd;

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

/// Transforms patches `first .. first + count` of four padded rows (columns, channels) and stores
/// them at positions `at ..` of planes shaped (PRODUCTS, total, channels).
#[inline(always)]
fn transform_patches<S: Simd>(
    simd: S,
    rows: [&[f32]; AXIS],
    (first, count): (usize, usize),
    ci: usize,
    planes: &mut [f32],
    (at, total): (usize, usize),
) {
    let pixels = 2 * (first + count) + 2;
    assert!(rows.iter().all(|row| row.len() >= pixels * ci) && planes.len() == PRODUCTS * total * ci);
    assert!(at + count <= total);
    let (whole, left) = (ci - ci % S::F32_LANES, ci % S::F32_LANES);
    for pair in 0..count {
        // SAFETY: the assertion bounds the last pixel and the last plane.
        unsafe {
            let rows = [rows[0].as_ptr(), rows[1].as_ptr(), rows[2].as_ptr(), rows[3].as_ptr()];
            let (from, to) = (2 * (first + pair) * ci, planes.as_mut_ptr().add((at + pair) * ci));
            let mut c = 0;
            while c < whole {
                transform_vector::<S, true>(simd, rows, from + c, ci, to.add(c), total * ci, S::F32_LANES);
                c += S::F32_LANES;
            }
            if left > 0 {
                transform_vector::<S, false>(simd, rows, from + c, ci, to.add(c), total * ci, left);
            }
        }
    }
}

/// Transforms a vector of channels of one patch. The pixels of the patch are `ci` apart, the planes
/// `plane` apart.
///
/// # Safety
/// `lanes` values can be read at `at` and three times `ci` on in every row, and written at every
/// plane.
#[inline(always)]
unsafe fn transform_vector<S: Simd, const WHOLE: bool>(
    simd: S,
    rows: [*const f32; AXIS],
    at: usize,
    ci: usize,
    to: *mut f32,
    plane: usize,
    lanes: usize,
) {
    let mut d = [[simd.splat_f32s(0.0); AXIS]; AXIS];
    // SAFETY: the caller's contract.
    unsafe {
        for (d, row) in d.iter_mut().zip(rows) {
            for (x, d) in d.iter_mut().enumerate() {
                *d = load::<S, WHOLE>(simd, row.add(at + x * ci), lanes);
            }
            *d = transform_axis(simd, *d);
        }
        let [d0, d1, d2, d3] = d;
        for x in 0..AXIS {
            let column = transform_axis(simd, [d0[x], d1[x], d2[x], d3[x]]);
            for (y, value) in column.into_iter().enumerate() {
                store::<S, WHOLE>(simd, to.add((AXIS * y + x) * plane), lanes, value);
            }
        }
    }
}

/// The inputs d0..d3 of one axis, transformed to the factors of its weights.
#[inline(always)]
fn transform_axis<S: Simd>(simd: S, d: [S::f32s; AXIS]) -> [S::f32s; AXIS] {
    [simd.sub_f32s(d[0], d[2]), simd.add_f32s(d[1], d[2]), simd.sub_f32s(d[2], d[1]), simd.sub_f32s(d[1], d[3])]
}

/// Computes consecutive output lines. `rows` holds the padded input rows under them, `length`
/// values each: as many as the lines, rounded up to even, and two more.
#[inline(always)]
pub(super) fn run_lines<'b, S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    blocks: impl Iterator<Item = Block<'b>> + Clone,
    rows: &[f32],
    length: usize,
    mut lines: Vec<Line<'_>>,
) {
    let (ci, co) = (conv.geometry.input.2, conv.geometry.output.2);
    let pairs = lines[0].width.div_ceil(2);
    let many = (PRODUCTS * ci * co / WEIGHTS_PER_PATCH).min(MOST_PATCHES);
    let most = many.max(PATCHES / (PRODUCTS * ci)).next_multiple_of(12);
    let together = (most / pairs).max(1); // pairs of lines
    let mut patches = Vec::new();
    for (k, lines) in lines.chunks_mut(2 * together).enumerate() {
        let row = |y: usize| &rows[(2 * k * together + y) * length..][..length];
        let mut first = 0;
        while first < pairs {
            let count = most.min(pairs - first);
            let total = lines.len().div_ceil(2) * count;
            patches.resize(PRODUCTS * total * ci, 0.0);
            for at in (0..total).step_by(count) {
                let y = 2 * (at / count);
                let under = [row(y), row(y + 1), row(y + 2), row(y + 3)];
                transform_patches(simd, under, (first, count), ci, &mut patches, (at, total));
            }
            for block in blocks.clone() {
                for (r, lines) in lines.chunks_mut(2).enumerate() {
                    run_patches(simd, conv, &block, &patches, (r * count, total), (first, count), lines);
                }
            }
            first += count;
        }
    }
    for block in blocks {
        lines.iter_mut().for_each(|line| add_item_bias(conv, block.first, block.vectors * S::F32_LANES, line));
    }
}

/// Computes the outputs of `count` pairs of columns, starting at pair `first`, of two lines (one at
/// the end of an odd image) for one block of output channels. Their patches start at number `at` of
/// `total`.
#[inline(always)]
fn run_patches<S: Simd>(
    simd: S,
    conv: &DirectConv<'_>,
    block: &Block<'_>,
    patches: &[f32],
    (at, total): (usize, usize),
    (first, count): (usize, usize),
    lines: &mut [Line<'_>],
) {
    let (ci, width) = (conv.geometry.input.2, block.vectors * S::F32_LANES);
    let mut m = [[0f32; TILE]; AXIS];
    // For each of the four rows of products, its contribution to the left and to the right output.
    let mut sums = [[[0f32; TILE]; AXIS]; 2];
    let mut p = 0;
    while p < count {
        let here = tile_pixels::<S>(block.vectors, count - p);
        let mut planes = patches.chunks(total * ci).zip(block.values.chunks(ci * width));
        let [of_left, of_right] = &mut sums;
        for (of_left, of_right) in of_left.iter_mut().zip(of_right) {
            for tile in &mut m {
                let (plane, weights) = planes.next().expect("PRODUCTS planes");
                tile_sums(simd, (block.vectors, here), &[plane], (at + p) * ci, ci, ci, weights, tile);
            }
            for i in (0..here * width).step_by(S::F32_LANES) {
                let [left, right] = outputs_of_axis(simd, load_all(simd, &m, i));
                store_at(simd, of_left, i, left);
                store_at(simd, of_right, i, right);
            }
        }
        for q in 0..here {
            let pixel = 2 * (first + p + q);
            for (column, sums) in sums.iter().enumerate().take(lines[0].width - pixel) {
                for v in 0..block.vectors {
                    let values = outputs_of_axis(simd, load_all(simd, sums, q * width + v * S::F32_LANES));
                    for (line, value) in lines.iter_mut().zip(values) {
                        finish(simd, conv, block.first + v * S::F32_LANES, value, pixel + column, line);
                    }
                }
            }
        }
        p += here;
    }
}

/// The two outputs of one axis, from its products.
#[inline(always)]
fn outputs_of_axis<S: Simd>(simd: S, m: [S::f32s; AXIS]) -> [S::f32s; 2] {
    let both = simd.add_f32s(m[1], m[2]);
    [simd.add_f32s(m[0], both), simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3])]
}

/// The vector at position `i` of each tile.
#[inline(always)]
fn load_all<S: Simd>(simd: S, tiles: &[[f32; TILE]; AXIS], i: usize) -> [S::f32s; AXIS] {
    let mut all = [simd.splat_f32s(0.0); AXIS];
    for (vector, tile) in all.iter_mut().zip(tiles) {
        assert!(i + S::F32_LANES <= TILE);
        // SAFETY: the assertion above.
        *vector = unsafe { load::<S, true>(simd, tile.as_ptr().add(i), S::F32_LANES) };
    }
    all
}

#[inline(always)]
fn store_at<S: Simd>(simd: S, tile: &mut [f32; TILE], i: usize, value: S::f32s) {
    assert!(i + S::F32_LANES <= TILE);
    // SAFETY: the assertion above.
    unsafe { store::<S, true>(simd, tile.as_mut_ptr().add(i), S::F32_LANES, value) }
}
