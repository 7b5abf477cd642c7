//! Group normalisation on the CPU.

use super::options::{GroupNormInputs, GroupNormOptions};
use crate::backend::cpu::channel_loops::{
    Affine, Pixels, affine, channel_squares, channel_sums, combine, slope_and_sums,
};
use crate::graph::record::CpuArguments;
use crate::tensor::Shape;
use rayon::prelude::*;
use std::ops::Range;

/// Pixels per partial statistic. It is fixed, so that the result does not depend on the number of
/// threads.
const CHUNK_PIXELS: usize = 256;

pub(super) fn normalise(options: GroupNormOptions, launch: &mut CpuArguments<'_>) {
    let s = launch.output_shapes[0];
    let inputs = options.inputs(launch.inputs[0], &launch.inputs[1..]);
    let sources = Source::all(&inputs, s);
    let [y, mean, rstd] = &mut launch.outputs[..] else { unreachable!("three outputs") };
    statistics(&sources, s, options, mean, rstd);
    let p = Parameters::new(&inputs, options.groups, mean, rstd);
    y.par_chunks_mut(s.item()).enumerate().for_each(|(n, y)| {
        let (a, b) = p.slope_and_offset(n);
        y.par_chunks_mut(CHUNK_PIXELS * s.c).enumerate().for_each(|(k, y)| {
            for x in &sources {
                let own = x.channels.clone();
                affine(&mut y[own.start..], s.c, x.chunk(n, k), &a[own.clone()], &b[own], options.silu);
            }
        });
    });
}

pub(super) fn vjp(options: GroupNormOptions, addend: bool, launch: &mut CpuArguments<'_>) {
    let s = launch.input_shapes[0];
    let inputs = options.inputs(launch.inputs[1], &launch.inputs[4..]);
    let sources = Source::all(&inputs, s);
    let p = Parameters::new(&inputs, options.groups, launch.inputs[2], launch.inputs[3]);
    let addend = addend.then(|| launch.inputs[launch.inputs.len() - 1]);
    let dy = launch.input_unless_in_place(0);
    for n in 0..s.n {
        // For each chunk of pixels the gradients with respect to all tensors.
        let mut chunks: Vec<Vec<&mut [f32]>> = Vec::new();
        chunks.resize_with((s.h * s.w).div_ceil(CHUNK_PIXELS), Vec::new);
        for (dx, x) in launch.outputs.iter_mut().zip(&sources) {
            let (item, c) = (s.h * s.w * x.channels.len(), x.channels.len());
            let parts = dx[n * item..][..item].chunks_mut(CHUNK_PIXELS * c);
            chunks.iter_mut().zip(parts).for_each(|(chunk, part)| chunk.push(part));
        }
        let (a, b) = p.slope_and_offset(n);
        let centre = p.centre(n);
        let u = Affine { a: &a, b: &b, centre: &centre, silu: options.silu };
        // First pass: the output buffers of dx receive du, computed from dy. For every channel it
        // also sums du and du (x - mean).
        let sums: Vec<[Vec<f64>; 2]> = (chunks.par_iter_mut().enumerate())
            .map(|(k, chunk)| {
                let of_source = |(du, x): (&mut &mut [f32], &Source<'_>)| {
                    let dy = dy.map(|dy| pixels(dy, n, k, s, x.channels.start));
                    slope_and_sums(Some(du), dy, x.chunk(n, k), &u.part(x.channels.clone()))
                };
                joined(chunk.iter_mut().zip(&sources).map(of_source))
            })
            .collect();
        let [by_du, by_x, one] = p.coefficients(n, &sums, s);
        chunks.par_iter_mut().enumerate().for_each(|(k, chunk)| {
            for (dx, x) in chunk.iter_mut().zip(&sources) {
                let own = || x.channels.clone();
                combine(dx, x.chunk(n, k), &by_du[own()], &by_x[own()], &one[own()], &centre[own()]);
            }
            if let Some(addend) = addend {
                let addend = &addend[n * s.item() + k * CHUNK_PIXELS * s.c..];
                chunk[0].iter_mut().zip(addend).for_each(|(dx, a)| *dx += a);
            }
        });
    }
}

pub(super) fn film_vjp(options: GroupNormOptions, launch: &mut CpuArguments<'_>) {
    let s = launch.input_shapes[0];
    let inputs = options.inputs(launch.inputs[1], &launch.inputs[4..]);
    let p = Parameters::new(&inputs, options.groups, launch.inputs[2], launch.inputs[3]);
    let sums = slope_sums(&Source::all(&inputs, s), &p, options.silu, launch.inputs[0], s);
    for (dfilm, [du, du_x]) in launch.outputs[0].chunks_mut(2 * s.c).zip(sums) {
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
    let sums = slope_sums(&Source::all(&inputs, s), &p, options.silu, launch.inputs[0], s);
    let [mut dgamma, mut dbeta] = [(); 2].map(|_| vec![0f64; s.c]);
    for (n, [du, du_x]) in sums.iter().enumerate() {
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
fn slope_sums(sources: &[Source<'_>], p: &Parameters<'_>, silu: bool, dy: &[f32], s: Shape) -> Vec<[Vec<f64>; 2]> {
    let of_item = |n: usize| {
        let (a, b) = p.slope_and_offset(n);
        let centre = p.centre(n);
        let u = Affine { a: &a, b: &b, centre: &centre, silu };
        let of_chunk = |k: usize| {
            joined(sources.iter().map(|x| {
                let dy = pixels(dy, n, k, s, x.channels.start);
                slope_and_sums(None, Some(dy), x.chunk(n, k), &u.part(x.channels.clone()))
            }))
        };
        let partial: Vec<_> = (0..(s.h * s.w).div_ceil(CHUNK_PIXELS)).into_par_iter().map(of_chunk).collect();
        let mut sums = [(); 2].map(|_| vec![0f64; s.c]);
        for of_chunk in partial {
            for (sum, of_chunk) in sums.iter_mut().zip(of_chunk) {
                sum.iter_mut().zip(of_chunk).for_each(|(s, v)| *s += v);
            }
        }
        for (c, sum_x) in sums[1].iter_mut().enumerate() {
            *sum_x *= p.rstd[n * p.groups + c / (s.c / p.groups)] as f64;
        }
        sums
    };
    (0..s.n).map(of_item).collect()
}

/// Two sums per channel of all tensors, out of those of each.
fn joined(of_sources: impl Iterator<Item = [Vec<f64>; 2]>) -> [Vec<f64>; 2] {
    let join = |[mut a, mut b]: [Vec<f64>; 2], [c, d]: [Vec<f64>; 2]| {
        a.extend(c);
        b.extend(d);
        [a, b]
    };
    of_sources.reduce(join).unwrap_or_default()
}

/// The pixels of chunk `k` of item `n` in a tensor of shape `s`, from a channel on.
fn pixels(values: &[f32], n: usize, k: usize, s: Shape, channel: usize) -> Pixels<'_> {
    Pixels { values: &values[n * s.item() + k * CHUNK_PIXELS * s.c + channel..], stride: s.c }
}

/// x or the tensor `second`: the norm goes over the channels of both.
struct Source<'a> {
    values: &'a [f32],
    /// Its channels among those of both.
    channels: Range<usize>,
    /// Pixels of an item.
    pixels: usize,
}

impl<'a> Source<'a> {
    /// One tensor or two; `s` is the shape of both together.
    fn all(&GroupNormInputs { x, second, .. }: &GroupNormInputs<&'a [f32]>, s: Shape) -> Vec<Source<'a>> {
        let (pixels, first) = (s.h * s.w, x.len() / (s.n * s.h * s.w));
        let x = Source { values: x, channels: 0..first, pixels };
        let second = second.map(|values| Source { values, channels: first..s.c, pixels });
        std::iter::once(x).chain(second).collect()
    }

    /// Chunk `k` of item `n`.
    fn chunk(&self, n: usize, k: usize) -> &'a [f32] {
        let (from, to) = (k * CHUNK_PIXELS, ((k + 1) * CHUNK_PIXELS).min(self.pixels));
        let at = |pixel: usize| (n * self.pixels + pixel) * self.channels.len();
        &self.values[at(from)..at(to)]
    }
}

/// Mean and 1 / sqrt(variance + eps) per item and group. Two passes run over each chunk while it
/// stays in the cache; Chan's formula then combines the chunks in a fixed order.
fn statistics(sources: &[Source<'_>], s: Shape, options: GroupNormOptions, mean: &mut [f32], rstd: &mut [f32]) {
    let (groups, per_group) = (options.groups, s.c / options.groups);
    let by_group = |of_channels: Vec<f32>| -> Vec<f64> {
        of_channels.chunks(per_group).map(|s| s.iter().map(|&v| v as f64).sum()).collect()
    };
    for n in 0..s.n {
        let partial: Vec<(f64, Vec<f64>, Vec<f64>)> = (0..(s.h * s.w).div_ceil(CHUNK_PIXELS))
            .into_par_iter()
            .map(|k| {
                let chunks = || sources.iter().map(|x| (x.chunk(n, k), x.channels.clone()));
                let count = (chunks().map(|(x, _)| x.len()).sum::<usize>() / groups) as f64;
                let sums = chunks().flat_map(|(x, own)| channel_sums(x, own.len())).collect();
                let means: Vec<f64> = by_group(sums).iter().map(|s| s / count).collect();
                let centre: Vec<f32> = (0..s.c).map(|c| means[c / per_group] as f32).collect();
                let squares = chunks().flat_map(|(x, own)| channel_squares(x, &centre[own])).collect();
                (count, means, by_group(squares))
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
    fn coefficients(&self, n: usize, sums: &[[Vec<f64>; 2]], s: Shape) -> [Vec<f32>; 3] {
        let (per_group, factor) = (s.c / self.groups, self.factor(n));
        let count = (s.h * s.w * per_group) as f64;
        let [mut by_du, mut by_x, mut one] = [(); 3].map(|_| vec![0f32; s.c]);
        for g in 0..self.groups {
            let rstd = self.rstd[n * self.groups + g] as f64;
            let channels = g * per_group..(g + 1) * per_group;
            let (mut sum_p, mut sum_px) = (0f64, 0f64);
            for c in channels.clone() {
                for [du, du_x] in sums {
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
