//! The outputs of a case by slow loops.

use crate::gradients;
use crate::real::{Real, gelu, silu, zero};
use crate::reference as r;
use dmap::graph::Shape;
use dmap::ops::adamw::AdamW;
use dmap::ops::axis_filter::{Axis, AxisFilter};
use dmap::ops::conv::{Conv, ConvInputs, Padding};
use dmap::ops::group_norm::{GroupNormInputs, GroupNormOptions};
use dmap::ops::learned_noise::LearnedNoise;
use dmap::ops::linear_combination::LinearCombination;
use dmap::ops::spectral_step::SpectralStep;
use dmap::ops::sphere_projection::GuidedStep;
use dmap::selftest::{Case, CaseOp};

/// The first outputs of a case for values of its inputs; none if no loop here makes them.
pub fn truth<T: Real>(case: &Case, values: &[Vec<T>]) -> Option<Vec<Vec<T>>> {
    let x: Vec<&[T]> = case.reads.iter().map(|&k| &values[k][..]).collect();
    let shapes: Vec<Shape> = case.reads.iter().map(|&k| case.inputs[k].shape).collect();
    let s = shapes[0];
    let each = |f: &dyn Fn(T) -> T| x[0].iter().map(|&x| f(x)).collect();
    let first: Vec<T> = match &case.op {
        CaseOp::Conv(op) => conv(op, &x, &shapes),
        CaseOp::Linear(op) => {
            let y = r::conv(x[0], s, x[1], 1, 1, x[2], None);
            if op.silu { y.into_iter().map(silu).collect() } else { y }
        }
        CaseOp::Geglu(_) => {
            let halves = r::conv(x[0], s, x[1], 1, 1, x[2], None);
            let gate = |p: &[T]| {
                let (values, gates) = p.split_at(p.len() / 2);
                values.iter().zip(gates).map(|(&v, &g)| v * gelu(g, false)).collect::<Vec<_>>()
            };
            halves.chunks(x[2].len()).flat_map(gate).collect()
        }
        CaseOp::GroupNorm(op) => group_norm(op.0, &x, &shapes),
        // Group norm with one group of one pixel.
        CaseOp::LayerNorm(_) => {
            let pixels = Shape::new(s.n * s.h * s.w, 1, 1, s.c);
            r::group_norm(x[0], pixels, 1, x[1], x[2], None, false)
        }
        CaseOp::Attention(op) => r::attention(x[0], s, op.heads, op.order == dmap::ops::attention::QkvOrder::ByHead),
        CaseOp::CrossAttention(op) => {
            let channels = |i: usize, first: usize| -> Vec<T> {
                x[i].chunks(shapes[i].c).flat_map(|token| token[first..first + s.c].to_vec()).collect()
            };
            let [k, v] = [1, 2].map(|i| channels(i, op.first_channels[i - 1]));
            r::cross_attention([x[0], &k, &v], s, Shape { c: s.c, ..shapes[1] }, op.heads, op.causal)
        }
        CaseOp::Gelu(op) => each(&|x| gelu(x, op.quick)),
        CaseOp::Silu(_) => each(&silu),
        CaseOp::LeakyRelu(op) => each(&|x| if x > zero() { x } else { T::of(op.slope.into()) * x }),
        // Through the exponential of the magnitude, which does not overflow.
        CaseOp::HyperbolicTangent(_) => each(&|x| {
            let e = (T::of(-2.0) * if x < zero() { -x } else { x }).exp();
            let y = (T::of(1.0) - e) / (T::of(1.0) + e);
            if x < zero() { -y } else { y }
        }),
        CaseOp::Scale(op) => each(&|x| T::of(op.scale.into()) * x),
        CaseOp::Clamp(op) => {
            let (low, high) = (T::of(op.low.into()), T::of(op.high.into()));
            let limit = |x: T| if x > high { high } else { x };
            each(&|x| if x < low { low } else { limit(x) })
        }
        CaseOp::Add(op) => x[0].iter().zip(x[1]).map(|(&a, &b)| a + T::of(op.scale.into()) * b).collect(),
        CaseOp::Concat(_) => r::concat(x[0], s.c, x[1], shapes[1].c),
        CaseOp::ChannelSlice(op) => x[0].chunks(s.c).flat_map(|p| p[op.start..op.start + op.len].to_vec()).collect(),
        CaseOp::ChannelPad(op) => {
            let pad = |p: &[T]| {
                let mut out = vec![zero(); op.total];
                out[op.start..op.start + s.c].copy_from_slice(p);
                out
            };
            x[0].chunks(s.c).flat_map(pad).collect()
        }
        CaseOp::Upsample(op) => r::resample(x[0], s, true, op.gain.into()),
        CaseOp::Pool(op) => r::resample(x[0], s, false, op.gain.into()),
        CaseOp::PixelShuffle(_) => shuffled(Shape { h: 2 * s.h, w: 2 * s.w, c: s.c / 4, ..s }, x[0], false),
        CaseOp::PixelUnshuffle(_) => shuffled(s, x[0], true),
        CaseOp::Crop(op) => window(x[0], s, op.h, op.w),
        CaseOp::ZeroPad(op) => window(x[0], s, op.h, op.w),
        CaseOp::AxisFilter(op) => axis_filter(op, x[0], s),
        CaseOp::Filter2d(op) => {
            r::filter2d(x[0], s, x[1], shapes[1].h, op.boundary == dmap::ops::filter2d::Boundary::Circular)
        }
        CaseOp::Mask(_) => (0..s.numel()).map(|k| x[0][k] * x[1][k * shapes[1].numel() / s.numel()]).collect(),
        CaseOp::ChannelMix(op) => {
            let mix =
                |p: &[T], row: &Vec<f32>| row.iter().zip(p).fold(zero(), |sum: T, (&m, &x)| sum + T::of(m.into()) * x);
            x[0].chunks(s.c).flat_map(|p| op.rows.iter().map(|row| mix(p, row)).collect::<Vec<_>>()).collect()
        }
        CaseOp::Fourier(op) => r::fourier(op, x[0], s),
        CaseOp::Modulus(_) => {
            let modulus = |p: &[T]| {
                let (re, im) = p.split_at(s.c / 2);
                re.iter().zip(im).map(|(&a, &b)| (a * a + b * b).sqrt()).collect::<Vec<_>>()
            };
            x[0].chunks(s.c).flat_map(modulus).collect()
        }
        CaseOp::Quantise(op) => quantise(&op.steps, x[0], s),
        CaseOp::QuantiseVjp(op) => {
            let rounded = quantise(&op.steps, x[1], s);
            let over = |k: usize| (x[1][k] - rounded[k]) / T::of(step_of(&op.steps, k, s));
            (0..s.numel()).map(|k| T::of(3.0) * over(k) * over(k) * x[0][k]).collect()
        }
        CaseOp::ThinEdges(_) => r::thin_edges(x[0], x[1], s),
        CaseOp::SparseProduct(op) => {
            let of = |item: &[T], row: &Vec<(usize, f32)>| {
                row.iter().fold(zero(), |sum: T, &(j, m)| sum + T::of(m.into()) * item[j])
            };
            let rows = &op.matrix.rows;
            x[0].chunks(s.item()).flat_map(|item| rows.iter().map(|row| of(item, row)).collect::<Vec<_>>()).collect()
        }
        CaseOp::DiagonalGaussian(_) => {
            let c = s.c / 2;
            let at = |k: usize, half: usize| x[0][k / c * s.c + half * c + k % c];
            let log_variance = |k: usize| if at(k, 1) > T::of(20.0) { T::of(20.0) } else { at(k, 1) };
            (0..x[1].len()).map(|k| at(k, 0) + (T::of(0.5) * log_variance(k)).exp() * x[1][k]).collect()
        }
        CaseOp::Embedding(_) => {
            let row = |label: &T| &x[1][label.value() as usize * shapes[1].c..][..shapes[1].c];
            x[0].iter().flat_map(|label| row(label).to_vec()).collect()
        }
        CaseOp::TimestepEmbedding(op) => {
            let half = op.channels / 2;
            let angle = |t: f64, k: usize| t * (-(10000f64.ln()) * k as f64 / half as f64).exp();
            let wave = |t: f64, k: usize| if k < half { angle(t, k).cos() } else { angle(t, k - half).sin() };
            x[0].iter().flat_map(|t| (0..op.channels).map(move |k| T::of(wave(t.value(), k)))).collect()
        }
        CaseOp::ResidualNorm(_) => r::distance(x[0], x[1], s.n),
        CaseOp::SquaredNorm(_) => r::inner_product(x[0], x[0], s.n),
        CaseOp::InnerProduct(_) => r::inner_product(x[0], x[1], s.n),
        CaseOp::RatioStep(op) => {
            let ratio = |k: usize| T::of(op.sign.into()) * x[2][k / s.item()] / x[3][k / s.item()];
            (0..s.numel()).map(|k| x[0][k] + ratio(k) * x[1][k]).collect()
        }
        CaseOp::LinearCombination(op) => linear_combination(op, &x, &shapes),
        CaseOp::SphereProjection(op) => {
            let offset: Vec<T> = x[0].iter().zip(x[1]).map(|(&z, &m)| z - m).collect();
            r::moved(x[1], &offset, |n| x[2][shapes[2].c * n + op.column], s.n)
        }
        CaseOp::GuidedStep(op) => guided_step(op, &x, &shapes),
        CaseOp::LearnedNoise(op) => learned_noise(op, &x, &shapes),
        CaseOp::SpectralStep(op) => spectral_step(op, &x, &shapes),
        CaseOp::ConvWeightVjp(op) => gradients::conv_weight(op, &x, &shapes),
        CaseOp::PixelSum(op) => gradients::pixel_sum(op.over_items, &x, s),
        CaseOp::LayerNormWeightVjp(_) => return Some(gradients::layer_norm(&x, s)),
        CaseOp::GroupNormWeightVjp(op) => return Some(gradients::group_norm(op, &x, s)),
        CaseOp::SquaredSum(_) => {
            let mut sum = x.get(1).map_or(zero(), |sum| sum[0]);
            x[0].iter().for_each(|&v| sum += v * v);
            vec![sum]
        }
        CaseOp::AdamWStep(op) => return Some(gradients::adamw_step(op, &x)),
        CaseOp::StorageCopy(_) => x[0].to_vec(),
        CaseOp::AdamW(op) => return Some(adamw(op, &x, &shapes)),
        // Whole steps run it, and tests of src/noise.rs hold the generator against published
        // values.
        CaseOp::NormalNoise(_) => return None,
    };
    if case.past {
        return Some(vec![first.iter().zip(x[0]).map(|(&y, &x)| y - T::of(0.75) * x).collect()]);
    }
    Some(vec![first])
}

fn conv<T: Real>(op: &Conv, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let ConvInputs { x: image, weight, bias, item_bias, addend, second } = op.inputs(x);
    let (mut s, co) = (shapes[0], shapes[1].n);
    let mut image = image.to_vec();
    if let Some(second) = second {
        let c = shapes[1].c - s.c;
        image = r::concat(&image, s.c, second, c);
        s.c += c;
    }
    if op.doubled {
        image = r::resample(&image, s, true, 1.0);
        (s.h, s.w) = (2 * s.h, 2 * s.w);
    }
    let bias = bias.map_or(vec![zero(); co], <[T]>::to_vec);
    if op.padding == Padding::After {
        // The odd pixels of a convolution of every pixel.
        let all = r::conv(&image, s, weight, 3, 1, &bias, None);
        let odd = |k: usize| {
            let (c, j, row) = (k % co, k / co % (s.w / 2), k / co / (s.w / 2));
            all[((2 * row + 1) * s.w + 2 * j + 1) * co + c]
        };
        return (0..s.n * s.h / 2 * s.w / 2 * co).map(odd).collect();
    }
    let mut y = r::conv(&image, s, weight, op.kernel, op.stride, &bias, addend);
    if let Some(added) = item_bias {
        let item = y.len() / s.n;
        y.iter_mut().enumerate().for_each(|(k, y)| *y += added[k / item * co + k % co]);
    }
    y
}

fn group_norm<T: Real>(options: GroupNormOptions, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let GroupNormInputs { x: first, gamma, beta, film, second } = options.inputs(x[0], &x[1..]);
    let (s, c) = (shapes[0], shapes[1].c);
    let both = second.map_or(first.to_vec(), |second| r::concat(first, s.c, second, c - s.c));
    r::group_norm(&both, Shape { c, ..s }, options.groups, gamma, beta, film, options.silu)
}

/// The first h rows and w columns; zeros past the image.
fn window<T: Real>(x: &[T], s: Shape, h: usize, w: usize) -> Vec<T> {
    let at = |k: usize| {
        let (c, j, i, n) = (k % s.c, k / s.c % w, k / s.c / w % h, k / s.c / w / h);
        if j < s.w && i < s.h { x[((n * s.h + i) * s.w + j) * s.c + c] } else { zero() }
    };
    (0..s.n * h * w * s.c).map(at).collect()
}

fn axis_filter<T: Real>(op: &AxisFilter, x: &[T], s: Shape) -> Vec<T> {
    let rows = &op.taps.rows;
    let (h, w) = if op.axis == Axis::Height { (rows.len(), s.w) } else { (s.h, rows.len()) };
    let at = |k: usize| {
        let (c, j, i, n) = (k % s.c, k / s.c % w, k / s.c / w % h, k / s.c / w / h);
        let mut sum = zero::<T>();
        for &(from, weight) in &rows[if op.axis == Axis::Height { i } else { j }] {
            let (y, z) = if op.axis == Axis::Height { (from, j) } else { (i, from) };
            sum += T::of(weight.into()) * x[((n * s.h + y) * s.w + z) * s.c + c];
        }
        sum
    };
    (0..s.n * h * w * s.c).map(at).collect()
}

/// Channel 4c + 2a + b of pixel (i, j) is channel c of pixel (2i + a, 2j + b) of an image of shape
/// `pixels`; `back` makes channels of pixels.
fn shuffled<T: Real>(pixels: Shape, x: &[T], back: bool) -> Vec<T> {
    let mut y = vec![zero(); x.len()];
    for k in 0..x.len() {
        let (c, j, i) = (k % pixels.c, k / pixels.c % pixels.w, k / pixels.c / pixels.w);
        let pixel = i / 2 * (pixels.w / 2) + j / 2;
        let other = pixel * 4 * pixels.c + 4 * c + i % 2 * 2 + j % 2;
        let (to, from) = if back { (other, k) } else { (k, other) };
        y[to] = x[from];
    }
    y
}

fn step_of(steps: &[f32], k: usize, s: Shape) -> f64 {
    let (c, j, i) = (k % s.c, k / s.c % s.w, k / s.c / s.w % s.h);
    f64::from(steps[(i % 8 * 8 + j % 8) * s.c + c])
}

/// Multiples of the steps of blocks of 8x8.
fn quantise<T: Real>(steps: &[f32], x: &[T], s: Shape) -> Vec<T> {
    let at = |k: usize| {
        let step = step_of(steps, k, s);
        T::of(step * (x[k].value() / step).round())
    };
    (0..s.numel()).map(at).collect()
}

fn linear_combination<T: Real>(op: &LinearCombination, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let (columns, item) = (shapes[0].c, shapes[1].item());
    let term = |k: usize, j: usize| x[0][k / item * columns + op.columns[j]] * x[j + 1][k];
    (0..shapes[1].numel()).map(|k| (0..op.columns.len()).fold(zero(), |sum: T, j| sum + term(k, j))).collect()
}

/// A step of half of Polyak's length where that is shorter than the stated one; the gradient of a
/// normalised step has length 1.
fn guided_step<T: Real>(op: &GuidedStep, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let (item, columns) = (shapes[0].item(), shapes[3].c);
    let norms = r::distance(x[1], &vec![zero(); x[1].len()], shapes[0].n);
    let step = |n: usize| {
        let (length, floor) = (x[3][n * columns + op.step], x[3][n * columns + op.floor]);
        if !op.normalised {
            return length;
        }
        let (stated, polyak) = (length / norms[n], (x[2][n] - floor) / norms[n] / norms[n]);
        if polyak < stated { polyak } else { stated }
    };
    (0..x[0].len()).map(|k| x[0][k] - step(k / item) * x[1][k]).collect()
}

fn learned_noise<T: Real>(op: &LearnedNoise, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let (item, columns) = (shapes[0].item(), shapes[3].c);
    let at = |k: usize| {
        let c = op.columns.map(|column| x[3][k / item * columns + column]);
        let f = (x[1][k] + T::of(1.0)) * T::of(0.5);
        x[0][k] + c[2] * (T::of(0.5) * (f * c[0] + (T::of(1.0) - f) * c[1])).exp() * x[2][k]
    };
    (0..shapes[0].numel()).map(at).collect()
}

/// The coefficient that DDRM writes, less the one of a step that knows no measurement. The inputs
/// say nothing about x0, which is in both.
fn spectral_step<T: Real>(op: &SpectralStep, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let (s, columns) = (shapes[0], shapes[4].c);
    let (eta, etab) = (T::of(op.eta.into()), T::of(op.etab.into()));
    let kept = (T::of(1.0) - eta * eta).sqrt();
    let at = |k: usize| {
        let power = x[3][k / s.c];
        if power.value() < 1.1e-6 {
            return zero();
        }
        let [sigma, noise] = op.columns.map(|column| x[4][k / s.item() * columns + column]);
        let (added, a) = (x[0][k] / power, noise / power.sqrt());
        let unmeasured = kept * sigma * x[1][k] + eta * sigma * x[2][k];
        if sigma.value() < a.value() {
            return kept * sigma * added / a + eta * sigma * x[2][k] - unmeasured;
        }
        etab * added + (sigma * sigma - a * a * etab * etab).sqrt() * x[2][k] - unmeasured
    };
    (0..s.numel()).map(at).collect()
}

fn adamw<T: Real>(op: &AdamW, x: &[&[T]], shapes: &[Shape]) -> Vec<Vec<T>> {
    let (item, columns) = (shapes[0].item(), shapes[4].c);
    let at = |k: usize| {
        let [rate, decay, first, second] = op.columns.map(|column| x[4][k / item * columns + column]);
        let [(old_m, new_m), (old_v, new_v)] = op.betas.map(|b| (T::of(b), T::of(1.0 - b)));
        let m = old_m * x[2][k] + new_m * x[1][k];
        let v = old_v * x[3][k] + new_v * x[1][k] * x[1][k];
        let z = (T::of(1.0) - decay) * x[0][k] - rate * (m * first) / ((v * second).sqrt() + T::of(1e-8));
        [z, m, v]
    };
    let all: Vec<[T; 3]> = (0..shapes[0].numel()).map(at).collect();
    [0, 1, 2].map(|i| all.iter().map(|o| o[i]).collect()).to_vec()
}
