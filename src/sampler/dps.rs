//! Diffusion posterior sampling (Chung et al. 2023, algorithm 1), in pixel space and in the space of codes.
//!
//! In sigma space (z = x / sqrt(abar)), where published latent step sizes belong, the step is z' - zeta dL/dz at the current level;
//! with dL/dz = sqrt(abar) dL/dx that is x' - zeta sqrt(abar abar') dL/dx.

use super::chain::Sampler;
use super::posterior::{Inputs, Setup};
use super::settings::Zeta;
use super::single::{SingleStep, StepGraph};
use crate::error::Result;
use crate::graph::Graph;
use crate::noise::Draw;

/// `x_{t-1} = sample of p(x_{t-1} | x_t) - zeta d/dx_t || A(x0(x_t)) - y ||`, one graph with its reverse.
pub fn step_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    record(s, g, inputs)
}

/// The same with an embedded text per item as an input.
pub fn step_graph_with_text(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let mut inputs = s.inputs(&mut g);
    inputs.context = Some(s.context(&mut g)?);
    record(s, g, inputs)
}

fn record(s: &Setup<'_>, mut g: Graph, inputs: Inputs) -> Result<StepGraph> {
    let measurement = s.measurement(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let (sample, _, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    let gradient = s.gradient(&mut g, residual, &inputs)?;
    let next = s.descend(&mut g, &inputs, sample, gradient, residual)?;
    let noises = vec![(keys, Draw::Ancestral)];
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises, next, residual: Some(residual) })
}

/// The coefficient of a step along the gradient at level i.
pub(super) fn length(s: &Setup<'_>, i: usize) -> f64 {
    match s.settings.zeta {
        Zeta::Relative(zeta) => zeta * s.radius(i),
        Zeta::Absolute(zeta) if s.prior.latent.is_some() => {
            zeta * (s.schedule.alpha_bar[i] * s.schedule.alpha_bar_before(i)).sqrt()
        }
        Zeta::Absolute(zeta) => zeta,
    }
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    Ok(Box::new(SingleStep::new(s, step_graph(s)?, |i| (length(s, i), vec![]))?))
}
