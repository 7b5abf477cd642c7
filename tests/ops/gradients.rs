//! Slow loops of the ops that only training records.

use crate::real::{Real, zero};
use dmap::graph::Shape;
use dmap::ops::adamw_step::AdamWStep;
use dmap::ops::conv::{ConvWeightVjp, Padding};
use dmap::ops::group_norm::{GroupNormInputs, GroupNormWeightVjp};

/// The sum plus the value that it is added to, if there is one.
fn added<T: Real>(addend: Option<&&[T]>, sums: Vec<T>) -> Vec<T> {
    match addend {
        Some(addend) => sums.iter().zip(*addend).map(|(&s, &a)| s + a).collect(),
        None => sums,
    }
}

pub fn conv_weight<T: Real>(op: &ConvWeightVjp, x: &[&[T]], shapes: &[Shape]) -> Vec<T> {
    let (dy, image, k) = (shapes[0], shapes[1], op.kernel);
    let pad = if op.padding == Padding::After { 0 } else { k / 2 };
    let mut dw = vec![zero::<T>(); dy.c * k * k * image.c];
    for (to, sum) in dw.iter_mut().enumerate() {
        let (c, tap, o) = (to % image.c, to / image.c % (k * k), to / image.c / (k * k));
        for pixel in 0..dy.n * dy.h * dy.w {
            let (j, i, n) = (pixel % dy.w, pixel / dy.w % dy.h, pixel / dy.w / dy.h);
            let (row, column) = (i * op.stride + tap / k, j * op.stride + tap % k);
            // Rows and columns before the first one wrap around to large numbers.
            let (row, column) = (row.wrapping_sub(pad), column.wrapping_sub(pad));
            if row < image.h && column < image.w {
                *sum += x[0][pixel * dy.c + o] * x[1][((n * image.h + row) * image.w + column) * image.c + c];
            }
        }
    }
    added(x.get(2), dw)
}

pub fn pixel_sum<T: Real>(over_items: bool, x: &[&[T]], s: Shape) -> Vec<T> {
    let mut y = vec![zero::<T>(); if over_items { s.c } else { s.n * s.c }];
    for (k, &x) in x[0].iter().enumerate() {
        y[k % s.c + if over_items { 0 } else { k / s.item() * s.c }] += x;
    }
    added(x.get(1), y)
}

/// For each channel, the sums over all pixels of dy xhat and of dy.
fn weight_sums<T: Real>(dy: &[T], xhat: &[T], c: usize) -> [Vec<T>; 2] {
    let mut sums = [vec![zero::<T>(); c], vec![zero::<T>(); c]];
    for (k, (&dy, &xhat)) in dy.iter().zip(xhat).enumerate() {
        sums[0][k % c] += dy * xhat;
        sums[1][k % c] += dy;
    }
    sums
}

pub fn layer_norm<T: Real>(x: &[&[T]], s: Shape) -> Vec<Vec<T>> {
    let pixels = Shape::new(s.n * s.h * s.w, 1, 1, s.c);
    let (ones, zeros) = (vec![T::of(1.0); s.c], vec![zero::<T>(); s.c]);
    let xhat = crate::reference::group_norm(x[1], pixels, 1, &ones, &zeros, None, false);
    let [dgamma, dbeta] = weight_sums(x[0], &xhat, s.c);
    vec![added(x.get(2), dgamma), added(x.get(3), dbeta)]
}

pub fn group_norm<T: Real>(op: &GroupNormWeightVjp, x: &[&[T]], s: Shape) -> Vec<Vec<T>> {
    let options = op.options;
    let GroupNormInputs { gamma, beta, film, .. } = options.inputs(x[1], &x[4..]);
    let group = |k: usize| k / s.item() * options.groups + k % s.c * options.groups / s.c;
    let xhat: Vec<T> = x[1].iter().enumerate().map(|(k, &v)| (v - x[2][group(k)]) * x[3][group(k)]).collect();
    // dy times the slope of y = silu((gamma xhat + beta) (1 + scale) + shift) by (gamma xhat +
    // beta)
    let slope = |k: usize| {
        let c = k % s.c;
        let of_film = |half: usize| film.map_or(zero(), |f| f[(k / s.item() * 2 + half) * s.c + c]);
        let scale = T::of(1.0) + of_film(0);
        if !options.silu {
            return x[0][k] * scale;
        }
        let u = (gamma[c] * xhat[k] + beta[c]) * scale + of_film(1);
        let sigmoid = T::of(1.0) / (T::of(1.0) + (-u).exp());
        x[0][k] * scale * sigmoid * (T::of(1.0) + u * (T::of(1.0) - sigmoid))
    };
    let du: Vec<T> = (0..x[0].len()).map(slope).collect();
    let sums = &x[x.len() - if op.addends { 2 } else { 0 }..];
    let [dgamma, dbeta] = weight_sums(&du, &xhat, s.c);
    vec![added(sums.first(), dgamma), added(sums.get(1), dbeta)]
}

pub fn adamw_step<T: Real>(op: &AdamWStep, x: &[&[T]]) -> Vec<Vec<T>> {
    let [step, rate, decay, first, second, limit] = [0, 1, 2, 3, 4, 5].map(|k| x[5][k]);
    let norm = x[4][0].sqrt() + T::of(1e-6);
    let clip = if norm > limit { limit / norm } else { T::of(1.0) };
    let [(old_m, new_m), (old_v, new_v)] = op.betas.map(|b| (T::of(b), T::of(1.0 - b)));
    let at = |k: usize| {
        let [z, m, v, g] = [0, 1, 2, 3].map(|i| x[i][k]);
        if step.value() == 0.0 {
            return [z, m, v, g];
        }
        if !x[4][0].value().is_finite() {
            return [z, m, v, zero()];
        }
        let m = old_m * m + new_m * clip * g;
        let v = old_v * v + new_v * clip * g * clip * g;
        [(T::of(1.0) - decay) * z - rate * (m * first) / ((v * second).sqrt() + T::of(1e-8)), m, v, zero()]
    };
    let all: Vec<[T; 4]> = (0..x[0].len()).map(at).collect();
    [0, 1, 2, 3].map(|i| all.iter().map(|o| o[i]).collect()).to_vec()
}
