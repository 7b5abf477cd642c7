//! The weight gradient of a convolution as a sum of outer products: every pixel adds dy x^T to the
//! gradient of each tap.
//!
//! A register tile of P output channels by V vectors of input channels stays in registers while a
//! band of pixels passes: each pixel needs V vector loads of x and P broadcasts of dy for P * V
//! multiply-adds. x has zeros around it, so that no tap leaves it.

use super::line::{load, store, tile_rows};
use pulp::{Simd, WithSimd};

/// Pixels of a band: its columns of x and dy stay in a typical first-level cache.
const PIXELS: usize = 256;

/// `dw[o, tap, i] += sum over y, x of dy[y, x, o] wide[stride y + tap row, stride x + tap column, i]`
/// for consecutive output channels of one item.
pub(in super::super) struct WeightGradient<'a> {
    pub kernel: usize,
    pub stride: usize,
    /// Input channels, output channels.
    pub channels: (usize, usize),
    /// x with its padding: (rows, `width`, input channels).
    pub wide: &'a [f32],
    pub width: usize,
    /// (rows, columns, output channels) from the first output channel of `dw` on.
    pub dy: &'a [f32],
    pub columns: usize,
    pub rows: usize,
    /// (some output channels, kernel, kernel, input channels).
    pub dw: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (taps, ci, lanes) = (self.kernel * self.kernel, self.channels.0, S::F32_LANES);
        let outputs = self.dw.len() / (taps * ci);
        let band = (PIXELS / self.columns).max(1);
        for first in (0..self.rows).step_by(band) {
            let rows = first..self.rows.min(first + band);
            for tap in 0..taps {
                let mut i = 0;
                while i < ci {
                    let (valid, mut o) = ((2 * lanes).min(ci - i), 0);
                    while o < outputs {
                        let largest = if lanes >= 16 { 8 } else { 6 };
                        let (p, tile) = (tile_rows(largest, outputs - o), Tile { tap, rows: rows.clone(), i, o });
                        macro_rules! add {
                            ($p:literal) => {
                                match valid {
                                    valid if valid == 2 * lanes => self.add::<S, $p, 2, true>(simd, tile, valid),
                                    valid if valid > lanes => self.add::<S, $p, 2, false>(simd, tile, valid),
                                    _ => self.add::<S, $p, 1, false>(simd, tile, valid),
                                }
                            };
                        }
                        match p {
                            8 => add!(8),
                            6 => add!(6),
                            4 => add!(4),
                            2 => add!(2),
                            _ => add!(1),
                        }
                        o += p;
                    }
                    i += valid;
                }
            }
        }
    }
}

/// Rows of dy whose products are added to the gradients from output channel `o` and input channel
/// `i` on, of one tap.
struct Tile {
    tap: usize,
    rows: std::ops::Range<usize>,
    i: usize,
    o: usize,
}

impl WeightGradient<'_> {
    /// Adds the products of a tile of P output channels and `valid` input channels, which V vectors
    /// hold; WHOLE if they fill them.
    #[inline(always)]
    fn add<S: Simd, const P: usize, const V: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        Tile { tap, rows, i, o }: Tile,
        valid: usize,
    ) {
        let ((ci, co), lanes) = (self.channels, S::F32_LANES);
        let (row, step) = (self.kernel * self.kernel * ci, self.stride * ci);
        let corner = (tap / self.kernel * self.width + tap % self.kernel) * ci + i;
        let last_x = corner + ((rows.end - 1) * self.stride * self.width + (self.columns - 1) * self.stride) * ci;
        let last_dy = (rows.end * self.columns - 1) * co + o + P - 1;
        assert!(last_x + valid <= self.wide.len() && last_dy < self.dy.len());
        assert!((o + P - 1) * row + tap * ci + i + valid <= self.dw.len());
        let count = |v: usize| if WHOLE { lanes } else { valid.saturating_sub(v * lanes).min(lanes) };
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        // SAFETY: the assertions bound the last value of each tensor.
        unsafe {
            let dw = self.dw.as_mut_ptr().add(o * row + tap * ci + i);
            for (p, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = load::<S, WHOLE>(simd, dw.wrapping_add(p * row + v * lanes), count(v));
                }
            }
            for y in rows {
                let mut dy = self.dy.as_ptr().add(y * self.columns * co + o);
                let mut x = self.wide.as_ptr().add(corner + y * self.stride * self.width * ci);
                for _ in 0..self.columns {
                    let mut vectors = [simd.splat_f32s(0.0); V];
                    for (v, vector) in vectors.iter_mut().enumerate() {
                        *vector = load::<S, WHOLE>(simd, x.wrapping_add(v * lanes), count(v));
                    }
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let value = simd.splat_f32s(*dy.add(p));
                        for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                            *sum = simd.mul_add_e_f32s(value, vector, *sum);
                        }
                    }
                    dy = dy.wrapping_add(co);
                    x = x.wrapping_add(step);
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    store::<S, WHOLE>(simd, dw.wrapping_add(p * row + v * lanes), count(v), sum);
                }
            }
        }
    }
}
