//! Loss-guided diffusion by Monte Carlo (Song et al. 2023, eq. 8): the residual is that of samples of x_0 around Tweedie's estimate.
//!
//! x0_j = x0 + r n_j with r = sigma / sqrt(1 + sigma^2) = sqrt(1 - abar), j = 1 .. K; the mean of the K residual norms descends. Their
//! gradients meet at x0 and go through the network once.

use super::chain::Sampler;
use super::dps;
use super::posterior::{Setup, column};
use super::single::{SingleStep, StepGraph};
use crate::error::Result;
use crate::graph::Graph;
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;

/// Deviation r of the samples, and 1 / K.
const SPREAD: usize = column::OWN;
const SHARE: usize = column::OWN + 1;

/// One step, one graph with its reverse.
pub fn step_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let c = inputs.coefficients;
    let measurement = s.measurement(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let shape = g.shape(x0);
    let mut noises = Vec::new();
    let mut residuals = Vec::new();
    for j in 0..s.settings.inner {
        let keys = g.input("estimate.keys", Shape::rows(shape.n, KEY_WORDS));
        let noise = g.one(NormalNoise { shape }, "estimate.noise", &[keys])?;
        let sample = g.combine("estimate", c, &[(column::ONE, x0), (SPREAD, noise)])?;
        residuals.push((SHARE, s.residual(&mut g, sample, &measurement)?));
        noises.push((keys, Draw::Estimate(j as u32)));
    }
    let residual = g.combine("residual.mean", c, &residuals)?;
    let (sample, _, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    noises.push((keys, Draw::Ancestral));
    let gradient = s.gradient(&mut g, residual, &inputs)?;
    let next = s.descend(&mut g, &inputs, sample, gradient, residual)?;
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises, next, residual: Some(residual) })
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let own = |i: usize| vec![(1.0 - s.schedule.alpha_bar[i]).sqrt(), 1.0 / s.settings.inner as f64];
    Ok(Box::new(SingleStep::new(s, step_graph(s)?, |i| (dps::length(s, i), own(i)))?))
}
