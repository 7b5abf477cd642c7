//! Slow loops, one per op, independent of the library: straight from the formulas.

use crate::real::{Real, silu, zero};
use dmap::graph::Shape;
use dmap::ops::axis_filter::Axis;
use dmap::ops::fourier::{Fourier, Parts};
use std::f64::consts::TAU;

pub fn conv<T: Real>(x: &[T], s: Shape, w: &[T], k: usize, stride: usize, bias: &[T], addend: Option<&[T]>) -> Vec<T> {
    let (co, pad) = (bias.len(), ((k - 1) / 2) as isize);
    let (ho, wo) = (s.h.div_ceil(stride), s.w.div_ceil(stride));
    let mut out = vec![zero(); s.n * ho * wo * co];
    for n in 0..s.n {
        for (i, j) in (0..ho).flat_map(|i| (0..wo).map(move |j| (i, j))) {
            for o in 0..co {
                let mut sum = bias[o];
                for (a, b) in (0..k).flat_map(|a| (0..k).map(move |b| (a, b))) {
                    let y = (i * stride + a) as isize - pad;
                    let z = (j * stride + b) as isize - pad;
                    if y < 0 || z < 0 || y >= s.h as isize || z >= s.w as isize {
                        continue;
                    }
                    for c in 0..s.c {
                        let from = ((n * s.h + y as usize) * s.w + z as usize) * s.c + c;
                        sum += x[from] * w[((o * k + a) * k + b) * s.c + c];
                    }
                }
                let at = ((n * ho + i) * wo + j) * co + o;
                out[at] = addend.map_or(sum, |a| sum + a[at]);
            }
        }
    }
    out
}

/// Channels of a, then channels of b.
pub fn concat<T: Real>(a: &[T], ca: usize, b: &[T], cb: usize) -> Vec<T> {
    a.chunks(ca).zip(b.chunks(cb)).flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
}

pub fn group_norm<T: Real>(
    x: &[T],
    s: Shape,
    groups: usize,
    gamma: &[T],
    beta: &[T],
    film: Option<&[T]>,
    with_silu: bool,
) -> Vec<T> {
    let per = s.c / groups;
    let mut out = vec![zero(); x.len()];
    for n in 0..s.n {
        for g in 0..groups {
            let members: Vec<usize> = (0..s.h * s.w)
                .flat_map(|p| (g * per..(g + 1) * per).map(move |c| n * s.item() + p * s.c + c))
                .collect();
            let count = T::of(members.len() as f64);
            let mut mean = zero::<T>();
            members.iter().for_each(|&i| mean += x[i] / count);
            let mut variance = zero::<T>();
            members.iter().for_each(|&i| variance += (x[i] - mean) * (x[i] - mean) / count);
            let deviation = (variance + T::of(1e-5)).sqrt();
            for &i in &members {
                let c = i % s.c;
                let mut u = gamma[c] * (x[i] - mean) / deviation + beta[c];
                if let Some(f) = film {
                    u = u * (T::of(1.0) + f[2 * s.c * n + c]) + f[2 * s.c * n + s.c + c];
                }
                out[i] = if with_silu { silu(u) } else { u };
            }
        }
    }
    out
}

/// `by_head`: head by head [q | k | v]; else all q, all k, all v.
pub fn attention<T: Real>(qkv: &[T], s: Shape, heads: usize, by_head: bool) -> Vec<T> {
    let c = s.c / 3;
    let d = c / heads;
    let part = |kind: usize| -> Vec<T> {
        let channel = |i: usize| if by_head { (i / d * 3 + kind) * d + i % d } else { kind * c + i };
        qkv.chunks(s.c).flat_map(|pixel| (0..c).map(|i| pixel[channel(i)]).collect::<Vec<_>>()).collect()
    };
    let (q, k, v) = (part(0), part(1), part(2));
    let one = Shape { c, ..s };
    cross_attention([&q, &k, &v], one, one, heads, false)
}

/// q (n, h, w, c), k and v (n or 1, 1, keys, c).
pub fn cross_attention<T: Real>([q, k, v]: [&[T]; 3], s: Shape, ks: Shape, heads: usize, causal: bool) -> Vec<T> {
    let (queries, keys, d) = (s.h * s.w, ks.h * ks.w, s.c / heads);
    let mut out = vec![zero(); q.len()];
    for (n, row, h) in (0..s.n * queries * heads).map(|i| (i / heads / queries, i / heads % queries, i % heads)) {
        let key = |token: usize, i: usize| ((if ks.n == 1 { 0 } else { n }) * keys + token) * s.c + h * d + i;
        let query = (n * queries + row) * s.c + h * d;
        let seen = if causal { row + 1 } else { keys };
        let scores: Vec<T> = (0..seen)
            .map(|token| {
                let mut sum = zero::<T>();
                (0..d).for_each(|i| sum += q[query + i] * k[key(token, i)]);
                sum / T::of(d as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().fold(scores[0], |m, &v| if v > m { v } else { m });
        let mut total = zero::<T>();
        scores.iter().for_each(|&v| total += (v - largest).exp());
        for i in 0..d {
            for (token, &score) in scores.iter().enumerate() {
                out[query + i] += (score - largest).exp() / total * v[key(token, i)];
            }
        }
    }
    out
}

pub fn resample<T: Real>(x: &[T], s: Shape, up: bool, gain: f64) -> Vec<T> {
    let (h, w) = if up { (2 * s.h, 2 * s.w) } else { (s.h / 2, s.w / 2) };
    let mut out = vec![zero(); s.n * h * w * s.c];
    for n in 0..s.n {
        for i in 0..2 * h.min(s.h) {
            for j in 0..2 * w.min(s.w) {
                for c in 0..s.c {
                    let small = |rows: usize, columns: usize| ((n * rows + i / 2) * columns + j / 2) * s.c + c;
                    let large = |rows: usize, columns: usize| ((n * rows + i) * columns + j) * s.c + c;
                    if up {
                        out[large(h, w)] = T::of(gain) * x[small(s.h, s.w)];
                    } else {
                        out[small(h, w)] += T::of(gain) * x[large(s.h, s.w)];
                    }
                }
            }
        }
    }
    out
}

/// Cross-correlation after reflection without the edge, or of an image that repeats.
pub fn filter2d<T: Real>(x: &[T], s: Shape, kernel: &[T], k: usize, circular: bool) -> Vec<T> {
    let reflect = |i: isize, n: usize| {
        let mut i = i;
        loop {
            if circular && i < 0 {
                i += n as isize;
            } else if circular && i >= n as isize {
                i -= n as isize;
            } else if i < 0 {
                i = -i;
            } else if i >= n as isize {
                i = 2 * (n as isize - 1) - i;
            } else {
                return i as usize;
            }
        }
    };
    let mut out = vec![zero(); x.len()];
    for n in 0..s.n {
        for (i, j) in (0..s.h).flat_map(|i| (0..s.w).map(move |j| (i, j))) {
            for c in 0..s.c {
                let mut sum = zero::<T>();
                for (a, b) in (0..k).flat_map(|a| (0..k).map(move |b| (a, b))) {
                    let y = reflect(i as isize + a as isize - (k / 2) as isize, s.h);
                    let z = reflect(j as isize + b as isize - (k / 2) as isize, s.w);
                    sum += kernel[(n * k + a) * k + b] * x[((n * s.h + y) * s.w + z) * s.c + c];
                }
                out[((n * s.h + i) * s.w + j) * s.c + c] = sum;
            }
        }
    }
    out
}

/// || a - b || per item.
pub fn distance<T: Real>(a: &[T], b: &[T], items: usize) -> Vec<T> {
    let item = a.len() / items;
    let norm = |n: usize| {
        let mut sum = zero::<T>();
        (n * item..(n + 1) * item).for_each(|i| sum += (a[i] - b[i]) * (a[i] - b[i]));
        sum.sqrt()
    };
    (0..items).map(norm).collect()
}

/// The inner product of each item.
pub fn inner_product<T: Real>(a: &[T], b: &[T], items: usize) -> Vec<T> {
    let item = a.len() / items;
    let product = |n: usize| {
        let mut sum = zero::<T>();
        (n * item..(n + 1) * item).for_each(|i| sum += a[i] * b[i]);
        sum
    };
    (0..items).map(product).collect()
}

/// z moved along `direction` of each item by `length[n] / ||direction||`.
pub fn moved<T: Real>(z: &[T], direction: &[T], length: impl Fn(usize) -> T, items: usize) -> Vec<T> {
    let item = z.len() / items;
    let zeros = vec![zero::<T>(); direction.len()];
    let norms = distance(direction, &zeros, items);
    (0..z.len()).map(|i| z[i] + length(i / item) * direction[i] / norms[i / item]).collect()
}

/// The centred orthonormal transform by its sum. Real and imaginary parts are halves of the
/// channels.
pub fn fourier<T: Real>(op: &Fourier, x: &[T], s: Shape) -> Vec<T> {
    let along_height = op.axis == Axis::Height;
    let (from, to) = (if along_height { s.h } else { s.w }, op.extent);
    let (n, channels) = (from.max(to), if op.from == Parts::Real { s.c } else { s.c / 2 });
    let o = if along_height { Shape { h: to, ..s } } else { Shape { w: to, ..s } };
    let o = Shape { c: if op.to == Parts::Real { channels } else { 2 * channels }, ..o };
    let at = |index: usize| {
        let (c, j, i, item) = (index % o.c, index / o.c % o.w, index / o.c / o.w % o.h, index / o.item());
        let k = (if along_height { i } else { j } + (n - to) / 2) as f64 - (n / 2) as f64;
        let mut sum = zero::<T>();
        for t in 0..from {
            let place = (t + (n - from) / 2) as f64 - (n / 2) as f64;
            let angle = TAU * place * k / n as f64 * if op.inverse { 1.0 } else { -1.0 };
            let (row, column) = if along_height { (t, j) } else { (i, t) };
            let start = ((item * s.h + row) * s.w + column) * s.c + c % channels;
            let re = x[start];
            let im = if op.from == Parts::Complex { x[start + channels] } else { zero() };
            let (sin, cos) = angle.sin_cos();
            sum += match c < channels {
                true => T::of(cos) * re - T::of(sin) * im,
                false => T::of(sin) * re + T::of(cos) * im,
            };
        }
        sum / T::of((n as f64).sqrt())
    };
    (0..o.numel()).map(at).collect()
}

/// Magnitudes that exceed the two neighbours in the gradient's direction, by angles in degrees.
pub fn thin_edges<T: Real>(a: &[T], b: &[T], s: Shape) -> Vec<T> {
    let magnitude = |k: usize| (a[k] * a[k] + b[k] * b[k] + T::of(1e-6)).sqrt();
    let at = |k: usize| {
        let (n, i, j) = (k / s.item(), (k / s.w % s.h) as f64, (k % s.w) as f64);
        let degrees = (b[k].value().atan2(a[k].value()).to_degrees() / 45.0).round() * 45.0;
        let is_larger = |sign: f64| {
            let row = i + sign * degrees.to_radians().sin().round();
            let column = j + sign * degrees.to_radians().cos().round();
            let is_inside = row >= 0.0 && column >= 0.0 && row < s.h as f64 && column < s.w as f64;
            !is_inside || magnitude(k) > magnitude((n * s.h + row as usize) * s.w + column as usize)
        };
        if is_larger(1.0) && is_larger(-1.0) { magnitude(k) } else { zero() }
    };
    (0..s.numel()).map(at).collect()
}
