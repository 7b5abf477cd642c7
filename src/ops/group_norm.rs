//! Group normalisation with affine, optional FiLM scale-shift and SiLU in one op.
//!
//! `xhat = (x - mean_g) rstd_g`, `u = (gamma xhat + beta) (1 + scale) + shift`, `y = silu(u)` or `y = u`.
//! VJP: du = dy silu'(u); p = du gamma (1 + scale); with averages over the group of item n,
//! dx = rstd (p - avg(p) - xhat avg(p xhat)): the mean and the deviation each take their part of p away.
//! dscale = sum over pixels of du (gamma xhat + beta), dshift = sum over pixels of du.
//! Needs x, mean, rstd and the parameters; y is never kept.

mod launch;

use super::*;
use crate::backend::cpu::channel_loops::{affine, channel_squares, channel_sums, combine, slope_and_sums};
use crate::graph::{Graph, TensorId};
use launch::CudaNorm;
use rayon::prelude::*;

/// Pixels of one partial statistic. Fixed, so that the result does not depend on the number of threads.
const CHUNK_PIXELS: usize = 256;

/// What forward and VJP have in common.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormOptions {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// A FiLM input follows the parameters.
    pub film: bool,
    /// SiLU at the end.
    pub silu: bool,
}

/// The normalisation. Inputs: x, gamma, beta, then film (n, 1, 1, 2c: scale, shift) if any.
/// Outputs: y, mean, rstd (n, 1, 1, groups).
#[derive(Debug, Clone)]
pub struct GroupNorm(pub GroupNormOptions);

/// Gradient by x. Inputs: dy, x, mean, rstd, gamma, beta, then film if any.
#[derive(Debug, Clone)]
pub struct GroupNormVjp(pub GroupNormOptions);

/// Gradient by film. Inputs as [`GroupNormVjp`].
#[derive(Debug, Clone)]
pub struct GroupNormFilmVjp(pub GroupNormOptions);

impl GroupNormOptions {
    fn check(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, film: Option<&&Tensor>) -> Result<(), String> {
        let s = x.shape;
        if s.c % self.groups != 0 {
            return Err(format!("{} channels do not divide into {} groups", s.c, self.groups));
        }
        expect_shape(gamma, Shape::vector(s.c))?;
        expect_shape(beta, Shape::vector(s.c))?;
        film.map_or(Ok(()), |f| expect_shape(f, Shape::rows(s.n, 2 * s.c)))
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3 + self.0.film as usize)?;
        self.0.check(inputs[0], inputs[1], inputs[2], inputs.get(3))?;
        let x = inputs[0].shape;
        let statistics = Shape::rows(x.n, self.0.groups);
        Ok(vec![storage(x), full("mean", statistics), full("rstd", statistics)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..3, "weights are fixed")?;
        let (dout, name) = (r.dout(0)?, r.name());
        let mut inputs = vec![dout, r.input(0), r.out(1), r.out(2), r.input(1), r.input(2)];
        if self.0.film {
            inputs.push(r.input(3));
        }
        if r.wants(0) {
            let dx = r.graph.one(GroupNormVjp(self.0), &name, &inputs)?;
            r.give(0, dx);
        }
        if self.0.film && r.wants(3) {
            let dfilm = r.graph.one(GroupNormFilmVjp(self.0), &name, &inputs)?;
            r.give(3, dfilm);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        14 * inputs[0].numel() as u64
    }
    fn launches(&self) -> usize {
        3
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.input_shapes[0];
        let (x, options) = (launch.inputs[0], self.0);
        let [y, mean, rstd] = &mut launch.outputs[..] else { unreachable!("three outputs") };
        statistics(x, s, options, mean, rstd);
        let p = Parameters::new(options, &launch.inputs[1..], mean, rstd);
        y.par_chunks_mut(s.item()).enumerate().for_each(|(n, y)| {
            let (a, b) = p.slope_and_offset(n);
            y.par_chunks_mut(CHUNK_PIXELS * s.c).enumerate().for_each(|(k, y)| {
                let x = &x[n * s.item() + k * CHUNK_PIXELS * s.c..][..y.len()];
                affine(y, x, &a, &b, options.silu);
            });
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let norm = CudaNorm {
            x: r.inputs[0],
            dy: None,
            y: r.outputs[0],
            statistics: [r.outputs[1], r.outputs[2]],
            parameters: r.inputs[1..].to_vec(),
            options: self.0,
        };
        norm.record(r, ["group_norm_statistics", "group_norm_combine", "group_norm"])?;
        Ok(())
    }
}

impl Op for GroupNormVjp {
    fn name(&self) -> &'static str {
        "group_norm_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 6 + self.0.film as usize)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        self.0.check(inputs[1], inputs[4], inputs[5], inputs.get(6))?;
        Ok(vec![storage(inputs[0].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        28 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn launches(&self) -> usize {
        3
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.input_shapes[1];
        let (options, x, per_group) = (self.0, launch.inputs[1], s.c / self.0.groups);
        let p = Parameters::new(options, &launch.inputs[4..], launch.inputs[2], launch.inputs[3]);
        let dx = &mut *launch.outputs[0];
        if launch.in_place != Some(0) {
            dx.copy_from_slice(launch.inputs[0]);
        }
        let count = (s.h * s.w * per_group) as f64;
        dx.par_chunks_mut(s.item()).enumerate().for_each(|(n, dx)| {
            let x = &x[n * s.item()..][..s.item()];
            let (a, b) = p.slope_and_offset(n);
            let centre = p.centre(n);
            // First pass: dy becomes du, and per channel the sums of du and du (x - mean).
            let sums: Vec<(Vec<f64>, Vec<f64>)> = (dx.par_chunks_mut(CHUNK_PIXELS * s.c))
                .zip(x.par_chunks(CHUNK_PIXELS * s.c))
                .map(|(dy, x)| slope_and_sums(dy, x, &a, &b, &centre, options.silu))
                .collect();
            let factor = p.factor(n);
            // dx = rstd (p - avg(p) - xhat avg(p xhat)) as by_du du + by_x (x - mean) + one.
            let [mut by_du, mut by_x, mut one] = [(); 3].map(|_| vec![0f32; s.c]);
            for g in 0..options.groups {
                let rstd = p.rstd[n * options.groups + g] as f64;
                let channels = g * per_group..(g + 1) * per_group;
                let (mut sum_p, mut sum_px) = (0f64, 0f64);
                for c in channels.clone() {
                    for (du, du_x) in &sums {
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
            dx.par_chunks_mut(CHUNK_PIXELS * s.c).zip(x.par_chunks(CHUNK_PIXELS * s.c)).for_each(|(dx, x)| {
                combine(dx, x, &by_du, &by_x, &one, &centre);
            });
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let norm = CudaNorm::reverse(r, self.0);
        norm.record(r, ["group_norm_vjp_statistics", "group_norm_vjp_combine", "group_norm_vjp"])?;
        Ok(())
    }
}

impl Op for GroupNormFilmVjp {
    fn name(&self) -> &'static str {
        "group_norm_film_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 7)?;
        self.0.check(inputs[1], inputs[4], inputs[5], inputs.get(6))?;
        Ok(vec![storage(inputs[6].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..7, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        18 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.input_shapes[1];
        let (dy, x, options) = (launch.inputs[0], launch.inputs[1], self.0);
        let p = Parameters::new(options, &launch.inputs[4..], launch.inputs[2], launch.inputs[3]);
        launch.outputs[0].par_chunks_mut(2 * s.c).enumerate().for_each(|(n, dfilm)| {
            let (a, b) = p.slope_and_offset(n);
            let mut du = dy[n * s.item()..][..s.item()].to_vec();
            let x = &x[n * s.item()..][..s.item()];
            let (sum, sum_x) = slope_and_sums(&mut du, x, &a, &b, &p.centre(n), options.silu);
            for c in 0..s.c {
                let g = n * options.groups + c / (s.c / options.groups);
                let normalised = sum_x[c] * p.rstd[g] as f64;
                dfilm[c] = (p.gamma[c] as f64 * normalised + p.beta[c] as f64 * sum[c]) as f32;
                dfilm[s.c + c] = sum[c] as f32;
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let norm = CudaNorm::reverse(r, self.0);
        norm.record_film(r)?;
        Ok(())
    }
}

/// Mean and 1 / sqrt(variance + eps) per item and group: two passes over chunks that stay in the cache, then
/// Chan's combination of the partial results, always in the same order.
fn statistics(x: &[f32], s: Shape, options: GroupNormOptions, mean: &mut [f32], rstd: &mut [f32]) {
    let (groups, per_group) = (options.groups, s.c / options.groups);
    for (n, x) in x.chunks(s.item()).enumerate() {
        let partial: Vec<(f64, Vec<f64>, Vec<f64>)> = (x.par_chunks(CHUNK_PIXELS * s.c))
            .map(|x| {
                let count = (x.len() / s.c * per_group) as f64;
                let by_group = |sums: Vec<f32>| -> Vec<f64> {
                    sums.chunks(per_group).map(|s| s.iter().map(|&v| v as f64).sum()).collect()
                };
                let means: Vec<f64> = by_group(channel_sums(x, s.c)).iter().map(|s| s / count).collect();
                let centre: Vec<f32> = (0..s.c).map(|c| means[c / per_group] as f32).collect();
                (count, means, by_group(channel_squares(x, &centre)))
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

/// gamma, beta, film and the statistics of one launch.
struct Parameters<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    film: Option<&'a [f32]>,
    mean: &'a [f32],
    rstd: &'a [f32],
    groups: usize,
}

impl<'a> Parameters<'a> {
    fn new(o: GroupNormOptions, inputs: &[&'a [f32]], mean: &'a [f32], rstd: &'a [f32]) -> Self {
        let film = o.film.then(|| inputs[2]);
        Parameters { gamma: inputs[0], beta: inputs[1], film, mean, rstd, groups: o.groups }
    }

    /// Mean of the group of each channel of item n.
    fn centre(&self, n: usize) -> Vec<f32> {
        let c = self.gamma.len();
        (0..c).map(|i| self.mean[n * self.groups + i * self.groups / c]).collect()
    }

    /// gamma (1 + scale) of item n.
    fn factor(&self, n: usize) -> Vec<f32> {
        let c = self.gamma.len();
        match self.film {
            Some(f) => self.gamma.iter().zip(&f[2 * c * n..]).map(|(g, s)| g * (1.0 + s)).collect(),
            None => self.gamma.to_vec(),
        }
    }

    /// u = a x + b for item n.
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
}

impl Graph {
    /// Group norm whose parameters are `name.weight` and `name.bias`; `film` is (n, 1, 1, 2c).
    pub fn group_norm(
        &mut self,
        name: &str,
        x: TensorId,
        (groups, eps): (usize, f32),
        film: Option<TensorId>,
        silu: bool,
    ) -> Result<TensorId> {
        let c = self.shape(x).c;
        let gamma = self.weight(&format!("{name}.weight"), Shape::vector(c));
        let beta = self.weight(&format!("{name}.bias"), Shape::vector(c));
        let mut inputs = vec![x, gamma, beta];
        inputs.extend(film);
        let op = GroupNorm(GroupNormOptions { groups, eps, film: film.is_some(), silu });
        self.one(op, name, &inputs)
    }
}
