//! Methods whose step is one graph.

use super::chain::{Chain, Sampler};
use super::posterior::{Inputs, MeasurementInputs, Setup, write_batch, write_keys, write_level};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId};
use crate::noise::Draw;

/// A recorded step, and what its tensors are.
pub struct StepGraph {
    /// The graph.
    pub graph: Graph,
    /// x, t and coefficients.
    pub inputs: Inputs,
    /// The measurement, where the step reads one.
    pub measurement: Option<MeasurementInputs>,
    /// Keys of the noise that is drawn, and what for.
    pub noises: Vec<(TensorId, Draw)>,
    /// x of the next level.
    pub next: TensorId,
    /// The residual norm, where the step has one.
    pub residual: Option<TensorId>,
}

impl StepGraph {
    /// The graph with its outputs marked.
    pub fn marked(mut self) -> StepGraph {
        self.graph.output(self.next);
        if let Some(residual) = self.residual {
            self.graph.output(residual);
        }
        self
    }
}

/// A step graph ready to run at every level.
pub struct SingleStep {
    step: Executor,
    inputs: Inputs,
    measurement: Option<MeasurementInputs>,
    noises: Vec<(TensorId, Draw)>,
    next: TensorId,
    residual: Option<TensorId>,
    /// (timesteps, coefficients) of each level.
    levels: Vec<(Vec<f32>, Vec<f32>)>,
}

impl SingleStep {
    /// Plans and allocates; `row` gives, for each level, the coefficient of the step along the gradient and the method's own columns.
    pub fn new(s: &Setup<'_>, recorded: StepGraph, row: impl Fn(usize) -> (f64, Vec<f64>)) -> Result<SingleStep> {
        let StepGraph { graph, inputs, measurement, noises, next, residual } = recorded.marked();
        let level = |i| {
            let (length, own) = row(i);
            (s.timesteps(i), s.coefficients(i, i, length, &own))
        };
        let levels = (0..s.schedule.steps()).map(level).collect();
        Ok(SingleStep { step: s.executor(graph)?, inputs, measurement, noises, next, residual, levels })
    }

    /// One pass at level i; `round` tells repeated passes at one level apart.
    pub fn pass(&mut self, i: usize, round: u32, chain: &mut Chain) -> Result<()> {
        write_level(&mut self.step, &self.inputs, &self.levels[i], chain)?;
        for &(keys, draw) in &self.noises {
            write_keys(&mut self.step, keys, chain, i, draw.round(round))?;
        }
        self.step.run()?;
        self.step.carry(self.next, self.inputs.x)?;
        match self.residual {
            Some(residual) => self.step.read_into(residual, &mut chain.residual),
            None => Ok(()),
        }
    }

    /// The executor and its x, for what happens between two passes.
    pub fn x(&mut self) -> (&mut Executor, TensorId) {
        (&mut self.step, self.inputs.x)
    }

    /// Gives x of the last pass to another step.
    pub fn hand_over(&self, to: &mut SingleStep) -> Result<()> {
        self.copy_x(&mut to.step, to.inputs.x)
    }

    /// Copies x of the last pass to an input of another executor.
    pub fn copy_x(&self, to: &mut Executor, input: TensorId) -> Result<()> {
        self.step.copy_to(self.inputs.x, to, input)
    }
}

impl Sampler for SingleStep {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        write_batch(&mut self.step, &self.inputs, self.measurement.as_ref(), chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        self.pass(i, 0, chain)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        // Not from the output: executors share an arena, and another one may have run since.
        self.step.read_into(self.inputs.x, x)
    }
    fn executors(&self) -> Vec<&Executor> {
        vec![&self.step]
    }
    fn set_poison(&mut self, on: bool) {
        self.step.set_poison(on);
    }
}
