//! Loops over pixels with one parameter per channel, the building blocks of normalisation.
//!
//! Each loop takes all pixels for 16 channels at a time, so that the parameters of these channels
//! stay in registers. Remaining channels are processed one by one.
//!
//! The channels of a loop may be a part of a tensor's: then a pixel of that tensor begins `stride`
//! values after the one before, and its slice begins with the first of these channels.

use super::math::{sigmoid, silu_slope};
use super::parallel::{Scratch, vectorised};
use std::ops::Range;

/// Channels per register.
const LANES: usize = 16;

/// Runs `$body` for all channels, `$L` of them from `$c0` on at a time.
macro_rules! over_channels {
    ($c:expr, |$c0:ident, $L:ident| $body:expr) => {{
        let whole = $c / LANES * LANES;
        for $c0 in (0..whole).step_by(LANES) {
            const $L: usize = LANES;
            $body
        }
        for $c0 in whole..$c {
            const $L: usize = 1;
            $body
        }
    }};
}

#[inline(always)]
fn lanes<const L: usize>(values: &[f32], c0: usize) -> [f32; L] {
    let values = &values[c0..c0 + L];
    std::array::from_fn(|l| values[l])
}

vectorised! {
    /// y = a x + b with a and b per channel, followed by SiLU if `silu`. Pixels of y are `stride`
    /// values apart.
    #[allow(clippy::needless_range_loop)]
    pub fn affine(y: &mut [f32], stride: usize, x: &[f32], a: &[f32], b: &[f32], silu: bool) {
        over_channels!(a.len(), |c0, L| {
            let (at, bt) = (lanes::<L>(a, c0), lanes::<L>(b, c0));
            for (y, x) in y.chunks_mut(stride).zip(x.chunks_exact(a.len())) {
                let (x, y) = (lanes::<L>(x, c0), &mut y[c0..c0 + L]);
                for l in 0..L {
                    let u = at[l] * x[l] + bt[l];
                    y[l] = if silu { u * sigmoid(u) } else { u };
                }
            }
        })
    }
}

vectorised! {
    /// dx = by_du dx + by_x (x - centre) + one; every factor except dx and x is per channel.
    #[allow(clippy::needless_range_loop)]
    pub fn combine(dx: &mut [f32], x: &[f32], by_du: &[f32], by_x: &[f32], one: &[f32], centre: &[f32]) {
        let c = centre.len();
        over_channels!(c, |c0, L| {
            let (p, q) = (lanes::<L>(by_du, c0), lanes::<L>(by_x, c0));
            let (r, m) = (lanes::<L>(one, c0), lanes::<L>(centre, c0));
            for (dx, x) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                let (x, dx) = (lanes::<L>(x, c0), &mut dx[c0..c0 + L]);
                for l in 0..L {
                    dx[l] = p[l] * dx[l] + q[l] * (x[l] - m[l]) + r[l];
                }
            }
        })
    }
}

vectorised! {
    /// du = dy silu'(u), u = a x + b, or dy without `silu`. Adds the sums over pixels of du and of du
    /// (x - centre) to the totals.
    #[allow(clippy::needless_range_loop)]
    fn add_slope_and_sums(du: &mut [f32], dy: Pixels<'_>, x: &[f32], u: &Affine<'_>, totals: &mut [Vec<f64>; 2]) {
        let c = u.a.len();
        over_channels!(c, |c0, L| {
            let (at, bt, m) = (lanes::<L>(u.a, c0), lanes::<L>(u.b, c0), lanes::<L>(u.centre, c0));
            let (mut sum, mut sum_x) = ([0f32; L], [0f32; L]);
            let pixels = dy.values.chunks(dy.stride).zip(x.chunks_exact(c));
            for (du, (dy, x)) in du.chunks_exact_mut(c).zip(pixels) {
                let (dy, x, du) = (lanes::<L>(dy, c0), lanes::<L>(x, c0), &mut du[c0..c0 + L]);
                for l in 0..L {
                    du[l] = if u.silu { dy[l] * silu_slope(at[l] * x[l] + bt[l]) } else { dy[l] };
                    sum[l] += du[l];
                    sum_x[l] += du[l] * (x[l] - m[l]);
                }
            }
            let [total, total_x] = &mut *totals;
            for l in 0..L {
                total[c0 + l] += sum[l] as f64;
                total_x[c0 + l] += sum_x[l] as f64;
            }
        })
    }
}

vectorised! {
    /// Adds the sum over the pixels to the total of every channel.
    #[allow(clippy::needless_range_loop)]
    fn sums_into(x: &[f32], out: &mut [f32]) {
        let c = out.len();
        over_channels!(c, |c0, L| {
            let mut sum = [0f32; L];
            for x in x.chunks_exact(c) {
                let x = lanes::<L>(x, c0);
                (0..L).for_each(|l| sum[l] += x[l]);
            }
            out[c0..c0 + L].copy_from_slice(&sum);
        })
    }
}

vectorised! {
    /// Adds the sum over the pixels of (x - centre)^2 to the total of every channel.
    #[allow(clippy::needless_range_loop)]
    fn squares_into(x: &[f32], centre: &[f32], out: &mut [f32]) {
        let c = out.len();
        over_channels!(c, |c0, L| {
            let m = lanes::<L>(centre, c0);
            let mut sum = [0f32; L];
            for x in x.chunks_exact(c) {
                let x = lanes::<L>(x, c0);
                (0..L).for_each(|l| sum[l] += (x[l] - m[l]) * (x[l] - m[l]));
            }
            out[c0..c0 + L].copy_from_slice(&sum);
        })
    }
}

/// Some channels of the pixels of a tensor.
#[derive(Clone, Copy)]
pub struct Pixels<'a> {
    /// The tensor's values from the first of these channels on.
    pub values: &'a [f32],
    /// Channels of the tensor: the distance from one pixel to the next.
    pub stride: usize,
}

/// u = a x + b and what comes after it.
pub struct Affine<'a> {
    /// The slope per channel.
    pub a: &'a [f32],
    /// The offset per channel.
    pub b: &'a [f32],
    /// A value per channel near the mean of x, which keeps sums accurate.
    pub centre: &'a [f32],
    /// SiLU follows.
    pub silu: bool,
}

impl Affine<'_> {
    /// The same for some channels.
    pub fn part(&self, channels: Range<usize>) -> Affine<'_> {
        let [a, b, centre] = [self.a, self.b, self.centre].map(|values| &values[channels.clone()]);
        Affine { a, b, centre, silu: self.silu }
    }
}

/// For each channel the sums over pixels of du and of du (x - centre), where du = dy silu'(u), or dy
/// without SiLU. If there is a place for du, it is written there; it holds dy if there is none
/// elsewhere.
pub fn slope_and_sums(mut du: Option<&mut [f32]>, dy: Option<Pixels<'_>>, x: &[f32], u: &Affine<'_>) -> [Vec<f64>; 2] {
    // Sums of so many pixels are in f32; these are added in f64.
    const PIXELS: usize = 32;
    let c = u.a.len();
    let mut totals = [(); 2].map(|_| vec![0f64; c]);
    let mut piece = Scratch::new(if du.is_some() && dy.is_some() { 0 } else { PIXELS * c });
    for (k, x) in x.chunks(PIXELS * c).enumerate() {
        let du = du.as_mut().map(|du| &mut du[k * PIXELS * c..][..x.len()]);
        let dy = dy.map(|dy| Pixels { values: &dy.values[k * PIXELS * dy.stride..], ..dy });
        match (du, dy) {
            (Some(du), Some(dy)) => add_slope_and_sums(du, dy, x, u, &mut totals),
            (Some(du), None) => {
                piece[..x.len()].copy_from_slice(du);
                add_slope_and_sums(du, Pixels { values: &piece, stride: c }, x, u, &mut totals);
            }
            (None, Some(dy)) => add_slope_and_sums(&mut piece[..x.len()], dy, x, u, &mut totals),
            (None, None) => unreachable!("dy is in one of the two"),
        }
    }
    totals
}

/// For each channel, the sum over the pixels.
pub fn channel_sums(x: &[f32], c: usize) -> Vec<f32> {
    let mut out = vec![0.0; c];
    sums_into(x, &mut out);
    out
}

/// For each channel, the sum over the pixels of (x - centre)^2.
pub fn channel_squares(x: &[f32], centre: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; centre.len()];
    squares_into(x, centre, &mut out);
    out
}
