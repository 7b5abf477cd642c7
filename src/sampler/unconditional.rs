//! Ancestral sampling of the prior (Ho et al. 2020, algorithm 2); shows what a model knows by itself.

use super::posterior::{Inputs, Setup, write_batch, write_keys, write_level};
use super::{Chain, Sampler};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, Plan, TensorId};

/// Tensors of the step graph.
pub struct Handles {
    inputs: Inputs,
    keys: TensorId,
    next: TensorId,
}

/// x_{t-1} ~ p(x_{t-1} | x_t)
pub fn step_graph(s: &Setup<'_>) -> Result<(Graph, Handles)> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let (x0, v) = s.estimate(&mut g, &inputs)?;
    let (next, _, keys) = s.ancestral(&mut g, &inputs, x0, v)?;
    g.output(next);
    Ok((g, Handles { inputs, keys, next }))
}

struct Unconditional {
    step: Executor,
    handles: Handles,
    levels: Vec<(Vec<f32>, Vec<f32>)>,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let (graph, handles) = step_graph(s)?;
    let levels = (0..s.schedule.steps()).map(|i| (s.timesteps(i), s.coefficients(i, i, 0.0))).collect();
    Ok(Box::new(Unconditional { step: s.executor(graph)?, handles, levels }))
}

impl Sampler for Unconditional {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        write_batch(&mut self.step, &self.handles.inputs, None, chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        let h = &self.handles;
        write_level(&mut self.step, &h.inputs, &self.levels[i], chain)?;
        write_keys(&mut self.step, h.keys, chain, i)?;
        self.step.run()?;
        self.step.carry(h.next, h.inputs.x)
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
