//! Loops over pixels with one parameter per channel, the building blocks of normalisation.
//!
//! Each loop takes all pixels for 16 channels at a time, so that the parameters of these channels
//! stay in registers. Remaining channels are processed one by one.

use super::math::{sigmoid, silu_slope};
use super::parallel::vectorised;

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
    /// y = a x + b with a and b per channel, followed by SiLU if `silu`.
    #[allow(clippy::needless_range_loop)]
    pub fn affine(y: &mut [f32], x: &[f32], a: &[f32], b: &[f32], silu: bool) {
        over_channels!(a.len(), |c0, L| {
            let (at, bt) = (lanes::<L>(a, c0), lanes::<L>(b, c0));
            for (y, x) in y.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
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
    /// Overwrites dy with du = dy silu'(u), u = a x + b. Adds the sums over pixels of du and of du
    /// (x - centre) to the totals.
    #[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
    fn add_slope_and_sums(
        dy: &mut [f32],
        x: &[f32],
        a: &[f32],
        b: &[f32],
        centre: &[f32],
        silu: bool,
        total: &mut [f64],
        total_x: &mut [f64],
    ) {
        let c = a.len();
        over_channels!(c, |c0, L| {
            let (at, bt, m) = (lanes::<L>(a, c0), lanes::<L>(b, c0), lanes::<L>(centre, c0));
            let (mut sum, mut sum_x) = ([0f32; L], [0f32; L]);
            for (dy, x) in dy.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                let (x, dy) = (lanes::<L>(x, c0), &mut dy[c0..c0 + L]);
                for l in 0..L {
                    let du = if silu { dy[l] * silu_slope(at[l] * x[l] + bt[l]) } else { dy[l] };
                    dy[l] = du;
                    sum[l] += du;
                    sum_x[l] += du * (x[l] - m[l]);
                }
            }
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

/// Overwrites dy with du = dy silu'(a x + b), or leaves it without `silu`. Returns for each channel
/// the sums over pixels of du and of du (x - centre).
pub fn slope_and_sums(
    dy: &mut [f32],
    x: &[f32],
    a: &[f32],
    b: &[f32],
    centre: &[f32],
    silu: bool,
) -> (Vec<f64>, Vec<f64>) {
    let c = a.len();
    let (mut total, mut total_x) = (vec![0f64; c], vec![0f64; c]);
    // Sums of 32 pixels are in f32; these are added in f64.
    for (dy, x) in dy.chunks_mut(32 * c).zip(x.chunks(32 * c)) {
        add_slope_and_sums(dy, x, a, b, centre, silu, &mut total, &mut total_x);
    }
    (total, total_x)
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
