//! Group normalisation on the CPU.

use super::options::{GroupNormInputs, GroupNormOptions};
use crate::backend::cpu::channel_loops::{affine, channel_squares, channel_sums, combine, slope_and_sums};
use crate::graph::record::CpuArguments;
use crate::tensor::Shape;
use rayon::prelude::*;
use std::borrow::Cow;

/// Pixels per partial statistic. It is fixed, so that the result does not depend on the number of
/// threads.
const CHUNK_PIXELS: usize = 256;

pub(super) fn normalise(options: GroupNormOptions, launch: &mut CpuArguments<'_>) {
    let s = launch.output_shapes[0];
    let inputs = options.inputs(launch.inputs[0], &launch.inputs[1..]);
    let x = Sources::new(&inputs, s);
    let [y, mean, rstd] = &mut launch.outputs[..] else { unreachable!("three outputs") };
    statistics(&x, options, mean, rstd);
    let p = Parameters::new(&inputs, options.groups, mean, rstd);
    y.par_chunks_mut(s.item()).enumerate().for_each(|(n, y)| {
        let (a, b) = p.slope_and_offset(n);
        y.par_chunks_mut(CHUNK_PIXELS * s.c).enumerate().for_each(|(k, y)| {
            affine(y, &x.chunk(n, k), &a, &b, options.silu);
        });
    });
}

pub(super) fn vjp(options: GroupNormOptions, addend: bool, launch: &mut CpuArguments<'_>) {
    let s = launch.input_shapes[0];
    let inputs = options.inputs(launch.inputs[1], &launch.inputs[4..]);
    let x = Sources::new(&inputs, s);
    let p = Parameters::new(&inputs, options.groups, launch.inputs[2], launch.inputs[3]);
    let addend = addend.then(|| launch.inputs[launch.inputs.len() - 1]);
    let dy = launch.input_unless_in_place(0);
    let (dx, second) = launch.outputs.split_at_mut(1);
    let (dx, mut second) = (&mut *dx[0], second.first_mut());
    let first_item = s.h * s.w * x.channels.0;
    for (n, dx) in dx.chunks_mut(first_item).enumerate() {
        let second =
            second.as_mut().map_or(&mut [][..], |d| &mut d[n * (s.item() - first_item)..][..s.item() - first_item]);
        let mut parts = x.parts(dx, second);
        let (a, b) = p.slope_and_offset(n);
        let centre = p.centre(n);
        // First pass: the output buffers of dx receive du, computed from dy. For every channel it
        // also sums du and du (x - mean).
        let sums: Vec<(Vec<f64>, Vec<f64>)> = (parts.par_iter_mut().enumerate())
            .map(|(k, part)| {
                let x = x.chunk(n, k);
                let read = |du: &mut [f32]| {
                    if let Some(dy) = dy {
                        du.copy_from_slice(&dy[n * s.item() + k * CHUNK_PIXELS * s.c..][..du.len()]);
                    }
                };
                part.change(read, |du| slope_and_sums(du, &x, &a, &b, &centre, options.silu))
            })
            .collect();
        let [by_du, by_x, one] = p.coefficients(n, &sums, s);
        parts.par_iter_mut().enumerate().for_each(|(k, part)| {
            let x = x.chunk(n, k);
            part.change(|_| (), |dx| combine(dx, &x, &by_du, &by_x, &one, &centre));
            if let Some(addend) = addend {
                let addend = &addend[n * s.item() + k * CHUNK_PIXELS * s.c..];
                part.first.iter_mut().zip(addend).for_each(|(dx, a)| *dx += a);
            }
        });
    }
}

pub(super) fn film_vjp(options: GroupNormOptions, launch: &mut CpuArguments<'_>) {
    let s = launch.input_shapes[0];
    let inputs = options.inputs(launch.inputs[1], &launch.inputs[4..]);
    let p = Parameters::new(&inputs, options.groups, launch.inputs[2], launch.inputs[3]);
    let x = Sources::new(&inputs, s);
    let sums = slope_sums(&x, &p, options.silu, launch.inputs[0], s);
    for (dfilm, (du, du_x)) in launch.outputs[0].chunks_mut(2 * s.c).zip(sums) {
        for c in 0..s.c {
            dfilm[c] = (p.gamma[c] as f64 * du_x[c] + p.beta[c] as f64 * du[c]) as f32;
            dfilm[s.c + c] = du[c] as f32;
        }
    }
}

pub(super) fn weight_vjp(options: GroupNormOptions, addends: bool, launch: &mut CpuArguments<'_>) {
    let s = launch.input_shapes[0];
    let inputs = options.inputs(launch.inputs[1], &launch.inputs[4..]);
    let p = Parameters::new(&inputs, options.groups, launch.inputs[2], launch.inputs[3]);
    let x = Sources::new(&inputs, s);
    let sums = slope_sums(&x, &p, options.silu, launch.inputs[0], s);
    let [mut dgamma, mut dbeta] = [(); 2].map(|_| vec![0f64; s.c]);
    for (n, (du, du_x)) in sums.iter().enumerate() {
        for c in 0..s.c {
            let by_film = p.film.map_or(1.0, |f| 1.0 + f[2 * s.c * n + c] as f64);
            dgamma[c] += by_film * du_x[c];
            dbeta[c] += by_film * du[c];
        }
    }
    let before = launch.inputs.len() - 2;
    for (k, sums) in [dgamma, dbeta].into_iter().enumerate() {
        let sum = if addends { Some(launch.inputs[before + k]) } else { None };
        let out = &mut *launch.outputs[k];
        match sum {
            Some([]) => {}
            Some(sum) => out.copy_from_slice(sum),
            None => out.fill(0.0),
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (*out as f64 + sum) as f32);
    }
}

/// For each item, the sums over its pixels of du and of du xhat, one of each per channel.
fn slope_sums(x: &Sources<'_>, p: &Parameters<'_>, silu: bool, dy: &[f32], s: Shape) -> Vec<(Vec<f64>, Vec<f64>)> {
    let of_item = |n: usize| {
        let (a, b) = p.slope_and_offset(n);
        let centre = p.centre(n);
        let dy = dy[n * s.item()..][..s.item()].par_chunks(CHUNK_PIXELS * s.c).enumerate();
        let of_chunk =
            |(k, dy): (usize, &[f32])| slope_and_sums(&mut dy.to_vec(), &x.chunk(n, k), &a, &b, &centre, silu);
        let partial: Vec<_> = dy.map(of_chunk).collect();
        let (mut sum, mut sum_x) = (vec![0f64; s.c], vec![0f64; s.c]);
        for (du, du_x) in partial {
            sum.iter_mut().zip(du).for_each(|(s, v)| *s += v);
            sum_x.iter_mut().zip(du_x).for_each(|(s, v)| *s += v);
        }
        for (c, sum_x) in sum_x.iter_mut().enumerate() {
            *sum_x *= p.rstd[n * p.groups + c / (s.c / p.groups)] as f64;
        }
        (sum, sum_x)
    };
    (0..s.n).map(of_item).collect()
}

/// x and, if there is one, the tensor `second`.
struct Sources<'a> {
    x: &'a [f32],
    second: &'a [f32],
    /// Channels of x and of `second`.
    channels: (usize, usize),
    pixels: usize,
    items: usize,
}

impl<'a> Sources<'a> {
    /// `s` is the shape of x and `second` together.
    fn new(&GroupNormInputs { x, second, .. }: &GroupNormInputs<&'a [f32]>, s: Shape) -> Self {
        let second = second.unwrap_or_default();
        let first = x.len() / (s.n * s.h * s.w);
        Sources { x, second, channels: (first, s.c - first), pixels: s.h * s.w, items: s.n }
    }

    fn chunks(&self) -> usize {
        self.pixels.div_ceil(CHUNK_PIXELS)
    }

    /// All channels of chunk `k` of item `n`: borrowed if there is only x, joined if there are two
    /// tensors.
    fn chunk(&self, n: usize, k: usize) -> Cow<'a, [f32]> {
        let (a, b) = self.channels;
        let pixels = n * self.pixels + k * CHUNK_PIXELS..n * self.pixels + self.pixels.min((k + 1) * CHUNK_PIXELS);
        let first = &self.x[pixels.start * a..pixels.end * a];
        if b == 0 {
            return Cow::Borrowed(first);
        }
        Cow::Owned(join(first, &self.second[pixels.start * b..pixels.end * b], self.channels))
    }

    /// Output buffers for the gradients of one item, chunk by chunk.
    fn parts<'d>(&self, first: &'d mut [f32], second: &'d mut [f32]) -> Vec<Part<'d>> {
        let (a, b) = self.channels;
        let mut seconds = second.chunks_mut((CHUNK_PIXELS * b).max(1));
        (first.chunks_mut(CHUNK_PIXELS * a))
            .map(|first| Part { first, second: seconds.next().unwrap_or_default(), channels: (a, b) })
            .collect()
    }
}

/// Output buffers of one chunk, for the gradients with respect to both tensors.
struct Part<'d> {
    first: &'d mut [f32],
    second: &'d mut [f32],
    channels: (usize, usize),
}

impl Part<'_> {
    /// Runs `f` on the channels of both tensors in one slice. `read` may fill that slice before.
    fn change<T>(&mut self, read: impl FnOnce(&mut [f32]), f: impl FnOnce(&mut [f32]) -> T) -> T {
        let (a, b) = self.channels;
        if b == 0 {
            read(self.first);
            return f(self.first);
        }
        let mut both = join(self.first, self.second, self.channels);
        read(&mut both);
        let result = f(&mut both);
        for ((from, x), y) in both.chunks(a + b).zip(self.first.chunks_mut(a)).zip(self.second.chunks_mut(b)) {
            x.copy_from_slice(&from[..a]);
            y.copy_from_slice(&from[a..]);
        }
        result
    }
}

/// Joins two tensors pixel by pixel: the channels of `first`, then the channels of `second`.
fn join(first: &[f32], second: &[f32], (a, b): (usize, usize)) -> Vec<f32> {
    let mut both = Vec::with_capacity(first.len() + second.len());
    for (x, y) in first.chunks(a).zip(second.chunks(b)) {
        both.extend_from_slice(x);
        both.extend_from_slice(y);
    }
    both
}

/// Mean and 1 / sqrt(variance + eps) per item and group. Two passes run over each chunk while it
/// stays in the cache; Chan's formula then combines the chunks in a fixed order.
fn statistics(x: &Sources<'_>, options: GroupNormOptions, mean: &mut [f32], rstd: &mut [f32]) {
    let c = x.channels.0 + x.channels.1;
    let (groups, per_group) = (options.groups, c / options.groups);
    for n in 0..x.items {
        let partial: Vec<(f64, Vec<f64>, Vec<f64>)> = (0..x.chunks())
            .into_par_iter()
            .map(|k| {
                let x = x.chunk(n, k);
                let count = (x.len() / c * per_group) as f64;
                let by_group = |sums: Vec<f32>| -> Vec<f64> {
                    sums.chunks(per_group).map(|s| s.iter().map(|&v| v as f64).sum()).collect()
                };
                let means: Vec<f64> = by_group(channel_sums(&x, c)).iter().map(|s| s / count).collect();
                let centre: Vec<f32> = (0..c).map(|c| means[c / per_group] as f32).collect();
                (count, means, by_group(channel_squares(&x, &centre)))
            })
            .collect();
        for g in 0..groups {
            let (mut count, mut m, mut m2) = (0f64, 0f64, 0f64);
            for (k, means, squares) in &partial {
                let delta = means[g] - m;
                m += delta * k / (count + k);
                m2 += squares[g] + delta * delta * count * k / (count + k);
                count += k;
            }
            mean[n * groups + g] = m as f32;
            rstd[n * groups + g] = (1.0 / (m2 / count + options.eps as f64).sqrt()) as f32;
        }
    }
}

/// gamma, beta, film and the statistics of one op.
struct Parameters<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    film: Option<&'a [f32]>,
    mean: &'a [f32],
    rstd: &'a [f32],
    groups: usize,
}

impl<'a> Parameters<'a> {
    fn new(inputs: &GroupNormInputs<&'a [f32]>, groups: usize, mean: &'a [f32], rstd: &'a [f32]) -> Self {
        let &GroupNormInputs { gamma, beta, film, .. } = inputs;
        Parameters { gamma, beta, film, mean, rstd, groups }
    }

    /// For each channel, the mean of its group in item `n`.
    fn centre(&self, n: usize) -> Vec<f32> {
        let c = self.gamma.len();
        (0..c).map(|i| self.mean[n * self.groups + i * self.groups / c]).collect()
    }

    /// For each channel, gamma (1 + scale) of item `n`.
    fn factor(&self, n: usize) -> Vec<f32> {
        let c = self.gamma.len();
        match self.film {
            Some(f) => self.gamma.iter().zip(&f[2 * c * n..]).map(|(g, s)| g * (1.0 + s)).collect(),
            None => self.gamma.to_vec(),
        }
    }

    /// For each channel, a and b of u = a x + b for item `n`.
    fn slope_and_offset(&self, n: usize) -> (Vec<f32>, Vec<f32>) {
        let c = self.gamma.len();
        let mut offset = Vec::with_capacity(c);
        let mut slope = Vec::with_capacity(c);
        for i in 0..c {
            let g = n * self.groups + i * self.groups / c;
            let (scale, shift) = self.film.map_or((0.0, 0.0), |f| (f[2 * c * n + i], f[2 * c * n + c + i]));
            let a = self.rstd[g] * self.gamma[i];
            slope.push(a * (1.0 + scale));
            offset.push((self.beta[i] - self.mean[g] * a) * (1.0 + scale) + shift);
        }
        (slope, offset)
    }

    /// Coefficients per channel of dx = by_du du + by_x (x - mean) + one, which equals
    /// rstd (p - avg(p) - xhat avg(p xhat)). `sums` holds the sums of every chunk.
    fn coefficients(&self, n: usize, sums: &[(Vec<f64>, Vec<f64>)], s: Shape) -> [Vec<f32>; 3] {
        let (per_group, factor) = (s.c / self.groups, self.factor(n));
        let count = (s.h * s.w * per_group) as f64;
        let [mut by_du, mut by_x, mut one] = [(); 3].map(|_| vec![0f32; s.c]);
        for g in 0..self.groups {
            let rstd = self.rstd[n * self.groups + g] as f64;
            let channels = g * per_group..(g + 1) * per_group;
            let (mut sum_p, mut sum_px) = (0f64, 0f64);
            for c in channels.clone() {
                for (du, du_x) in sums {
                    sum_p += du[c] * factor[c] as f64;
                    sum_px += du_x[c] * rstd * factor[c] as f64;
                }
            }
            for c in channels {
                by_du[c] = (rstd * factor[c] as f64) as f32;
                by_x[c] = (-rstd * rstd * sum_px / count) as f32;
                one[c] = (-rstd * sum_p / count) as f32;
            }
        }
        [by_du, by_x, one]
    }
}
