//! Diffusion posterior sampling (Chung et al. 2023, algorithm 1), in pixel space and in the space of codes.
//!
//! In sigma space (z = x / sqrt(abar)), where published latent step sizes belong, the step is z' - zeta dL/dz at the current level;
//! with dL/dz = sqrt(abar) dL/dx that is x' - zeta sqrt(abar abar') dL/dx.

use super::posterior::{Inputs, MeasurementInputs, Setup, write_batch, write_keys, write_level};
use super::{Chain, Sampler, Zeta};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, Plan, TensorId};

/// Tensors of the step graph.
pub struct Handles {
    inputs: Inputs,
    measurement: MeasurementInputs,
    keys: TensorId,
    next: TensorId,
    residual: TensorId,
}

/// `x_{t-1} = sample of p(x_{t-1} | x_t) - zeta d/dx_t || A(x0(x_t)) - y ||`, one graph with its reverse.
pub fn step_graph(s: &Setup<'_>) -> Result<(Graph, Handles)> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let measurement = s.measurement(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let (sample, _, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    let gradient = s.gradient(&mut g, residual, &inputs)?;
    let next = s.descend(&mut g, &inputs, sample, gradient, residual)?;
    g.output(next);
    g.output(residual);
    Ok((g, Handles { inputs, measurement, keys, next, residual }))
}

struct Dps {
    step: Executor,
    handles: Handles,
    /// (timesteps, coefficients) of each level.
    levels: Vec<(Vec<f32>, Vec<f32>)>,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let (graph, handles) = step_graph(s)?;
    let length = |i: usize| match s.settings.zeta {
        Zeta::Relative(zeta) => zeta * s.radius(i),
        Zeta::Absolute(zeta) if s.prior.latent.is_some() => {
            zeta * (s.schedule.alpha_bar[i] * s.schedule.alpha_bar_before(i)).sqrt()
        }
        Zeta::Absolute(zeta) => zeta,
    };
    let levels = (0..s.schedule.steps()).map(|i| (s.timesteps(i), s.coefficients(i, i, length(i)))).collect();
    Ok(Box::new(Dps { step: s.executor(graph)?, handles, levels }))
}

impl Sampler for Dps {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        write_batch(&mut self.step, &self.handles.inputs, Some(&self.handles.measurement), chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        let h = &self.handles;
        write_level(&mut self.step, &h.inputs, &self.levels[i], chain)?;
        write_keys(&mut self.step, h.keys, chain, i)?;
        self.step.run()?;
        self.step.carry(h.next, h.inputs.x)?;
        self.step.read_into(h.residual, &mut chain.residual)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.step.read_into(self.handles.next, x)
    }
    fn plans(&self) -> Vec<&Plan> {
        vec![self.step.plan()]
    }
    fn set_poison(&mut self, on: bool) {
        self.step.set_poison(on);
    }
}
