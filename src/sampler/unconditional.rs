//! Ancestral sampling of the prior (Ho et al. 2020, algorithm 2); shows what a model knows by itself.

use super::chain::Sampler;
use super::posterior::Setup;
use super::single::{SingleStep, StepGraph};
use crate::error::Result;
use crate::graph::Graph;
use crate::noise::Draw;

/// x_{t-1} ~ p(x_{t-1} | x_t)
pub fn step_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let (next, _, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    let noises = vec![(keys, Draw::Ancestral)];
    Ok(StepGraph { graph: g, inputs, measurement: None, noises, next, residual: None })
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    Ok(Box::new(SingleStep::new(s, step_graph(s)?, |_| (0.0, vec![]))?))
}
