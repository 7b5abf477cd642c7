//! DMAP: several ascent steps on the posterior per noise level, each projected back onto the sphere on which
//! p(x_{t-1} | x_t) concentrates (Xu et al. 2025), in the VP coordinates of pixel models.
//!
//! In sigma space (z = x / sqrt(abar)) the published inner step is z' <- z' - zeta dL/dz', then
//! z' <- mean + s_up sqrt(numel) (z' - mean) / ||z' - mean||. With x' = sqrt(abar') z' the gradient is
//! dL/dz' = sqrt(abar') dL/dx', so the step in x' is zeta abar' dL/dx'; the projection keeps its form.

use super::chain::{Chain, Sampler};
use super::posterior::{Inputs, MeasurementInputs, Setup, write_batch, write_keys, write_level};
use super::settings::Zeta;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId};
use crate::noise::Draw;
use crate::ops::sphere_projection::SphereProjection;
use crate::sampler::posterior::column;

/// Tensors of the outer graph.
pub struct OuterHandles {
    inputs: Inputs,
    keys: TensorId,
    mean: TensorId,
    sample: TensorId,
}

/// Tensors of the inner graph.
pub struct InnerHandles {
    inputs: Inputs,
    measurement: MeasurementInputs,
    mean: TensorId,
    next: TensorId,
    residual: TensorId,
}

/// mean and sample of p(x_{t-1} | x_t); no gradient.
pub fn outer_graph(s: &Setup<'_>) -> Result<(Graph, OuterHandles)> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let (sample, mean, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    g.output(mean);
    g.output(sample);
    Ok((g, OuterHandles { inputs, keys, mean, sample }))
}

/// One ascent step at the candidate x' of level t-1, and the projection.
pub fn inner_graph(s: &Setup<'_>) -> Result<(Graph, InnerHandles)> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let measurement = s.measurement(&mut g);
    let mean = g.input("mean", s.canvas());
    let (x0, _) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let gradient = s.gradient(&mut g, residual, &inputs)?;
    let moved = s.descend(&mut g, &inputs, inputs.x, gradient, residual)?;
    let projection = SphereProjection { column: column::RADIUS };
    let next = g.one(projection, "projection", &[moved, mean, inputs.coefficients])?;
    g.output(next);
    g.output(residual);
    Ok((g, InnerHandles { inputs, measurement, mean, next, residual }))
}

struct Dmap {
    outer: (Executor, OuterHandles),
    inner: (Executor, InnerHandles),
    repeats: usize,
    /// Per level i: (timesteps, coefficients) of the outer evaluation at i and of the inner ones at i - 1.
    outer_levels: Vec<(Vec<f32>, Vec<f32>)>,
    inner_levels: Vec<(Vec<f32>, Vec<f32>)>,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let (outer, outer_handles) = outer_graph(s)?;
    let (inner, inner_handles) = inner_graph(s)?;
    let length = |i: usize| match s.settings.zeta {
        Zeta::Relative(zeta) => zeta * s.radius(i),
        Zeta::Absolute(zeta) => zeta * s.schedule.alpha_bar_before(i),
    };
    let level = |at: usize, i: usize| (s.timesteps(at), s.coefficients(at, i, length(i), &[]));
    Ok(Box::new(Dmap {
        outer: (s.executor(outer)?, outer_handles),
        inner: (s.executor(inner)?, inner_handles),
        repeats: s.settings.inner,
        outer_levels: (0..s.schedule.steps()).map(|i| level(i, i)).collect(),
        inner_levels: (0..s.schedule.steps()).map(|i| level(i.saturating_sub(1), i)).collect(),
    }))
}

impl Sampler for Dmap {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        let (outer, inner) = (&mut self.outer, &mut self.inner);
        write_batch(&mut outer.0, &outer.1.inputs, None, chain)?;
        write_batch(&mut inner.0, &inner.1.inputs, Some(&inner.1.measurement), chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        let (outer, o) = &mut self.outer;
        let (inner, h) = &mut self.inner;
        write_level(outer, &o.inputs, &self.outer_levels[i], chain)?;
        write_keys(outer, o.keys, chain, i, Draw::Ancestral)?;
        outer.run()?;
        // At the last step the posterior has no spread: the sphere is a point and there is nowhere to go.
        if i == 0 {
            return outer.carry(o.sample, o.inputs.x);
        }
        outer.copy_to(o.mean, inner, h.mean)?;
        outer.copy_to(o.sample, inner, h.inputs.x)?;
        write_level(inner, &h.inputs, &self.inner_levels[i], chain)?;
        for _ in 0..self.repeats {
            inner.run()?;
            inner.carry(h.next, h.inputs.x)?;
        }
        inner.read_into(h.residual, &mut chain.residual)?;
        inner.copy_to(h.next, outer, o.inputs.x)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.outer.0.read_into(self.outer.1.inputs.x, x)
    }
    fn executors(&self) -> Vec<&Executor> {
        vec![&self.outer.0, &self.inner.0]
    }
    fn set_poison(&mut self, on: bool) {
        self.outer.0.set_poison(on);
        self.inner.0.set_poison(on);
    }
}
