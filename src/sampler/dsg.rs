//! Diffusion with a spherical Gaussian constraint (Yang et al. 2024, algorithm 1): the step is turned towards the steepest descent
//! on the sphere on which p(x_{t-1} | x_t) concentrates.
//!
//! With r = sqrt(numel) sigma and the unit gradient g at x_t, d* = -r g, d = sample - mean, m = d + zeta (d* - d):
//! x_{t-1} = mean + r m / ||m||. zeta is a share and belongs to no space.

use super::chain::Sampler;
use super::posterior::{Setup, column};
use super::settings::Zeta;
use super::single::{SingleStep, StepGraph};
use crate::error::Result;
use crate::graph::Graph;
use crate::noise::Draw;
use crate::ops::sphere_projection::SphereProjection;

/// zeta, 1 - zeta, and -1.
const SHARE: usize = column::OWN;
const REST: usize = column::OWN + 1;
const MINUS_ONE: usize = column::OWN + 2;

/// One step, one graph with its reverse.
pub fn step_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let c = inputs.coefficients;
    let measurement = s.measurement(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let (sample, mean, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    let gradient = s.gradient(&mut g, residual, &inputs)?;
    // mean + (1 - zeta) d, then zeta r down the gradient from there, then out to the sphere.
    let shortened = g.combine("shortened", c, &[(REST, sample), (SHARE, mean)])?;
    let down = g.combine("down", c, &[(column::ONE, shortened), (MINUS_ONE, gradient)])?;
    let turned = g.one(SphereProjection { column: column::STEP }, "turned", &[down, shortened, c])?;
    let next = g.one(SphereProjection { column: column::RADIUS }, "projection", &[turned, mean, c])?;
    let noises = vec![(keys, Draw::Ancestral)];
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises, next, residual: Some(residual) })
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    // Checked with the settings: a share.
    let (Zeta::Relative(zeta) | Zeta::Absolute(zeta)) = s.settings.zeta;
    Ok(Box::new(SingleStep::new(s, step_graph(s)?, |i| (zeta * s.radius(i), vec![zeta, 1.0 - zeta, -1.0]))?))
}
