//! `Executor`: a graph, its plan and a program on a device. It allocates once, then only launches.

use crate::backend::{Device, Program};
use crate::error::Result;
use crate::graph::{Graph, Plan, PlanOptions, TensorId};
use crate::weights::Weights;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Runs one graph again and again.
pub struct Executor {
    graph: Arc<Graph>,
    plan: Arc<Plan>,
    program: Box<dyn Program>,
}

impl Executor {
    /// Plans `graph`, then allocates on `device`.
    pub fn new(graph: Graph, options: &PlanOptions, weights: &Weights, device: &Device) -> Result<Executor> {
        let plan = Arc::new(Plan::new(&graph, options)?);
        let graph = Arc::new(graph);
        let program = device.prepare(graph.clone(), plan.clone(), weights)?;
        Ok(Executor { graph, plan, program })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Writes an input.
    pub fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()> {
        self.program.write(input, values)
    }

    /// Reads an output of the last run.
    pub fn read(&self, output: TensorId) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.graph.shape(output).numel()];
        self.program.read(output, &mut values)?;
        Ok(values)
    }

    /// Reads an output of the last run into `values`.
    pub fn read_into(&self, output: TensorId, values: &mut [f32]) -> Result<()> {
        self.program.read(output, values)
    }

    /// Copies an output of the last run into an input of another executor on the same device, without passing the host where
    /// the device is not the host.
    pub fn copy_to(&self, output: TensorId, to: &mut Executor, input: TensorId) -> Result<()> {
        self.program.copy_out(output, self.graph.shape(output).numel(), to.program.as_mut(), input)
    }

    /// Copies an output of the last run into an input for the next one.
    pub fn carry(&mut self, output: TensorId, input: TensorId) -> Result<()> {
        self.program.carry(output, self.graph.shape(output).numel(), input)
    }

    /// Runs the graph once. With `DMAP_STEPWISE=1` in the environment it does as [`Executor::run_stepwise`].
    pub fn run(&mut self) -> Result<()> {
        static STEPWISE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("DMAP_STEPWISE").is_some_and(|v| v == "1"));
        if *STEPWISE { self.program.run_stepwise() } else { self.program.run() }
    }

    /// Runs the graph once, node by node. Fails by name at the first node whose output is not finite, or which the device refuses.
    pub fn run_stepwise(&mut self) -> Result<()> {
        self.program.run_stepwise()
    }

    /// The time of one run of each step of the plan by itself, without the gaps between launches where the device can tell. What the
    /// steps leave behind means nothing.
    pub fn time_nodes(&mut self) -> Result<Vec<Duration>> {
        self.program.time_nodes()
    }

    /// Fills the arena with NaN before each run from now on.
    pub fn set_poison(&mut self, on: bool) {
        self.program.set_poison(on);
    }
}
