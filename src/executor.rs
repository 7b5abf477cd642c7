//! An `Executor` is a graph, its plan and a program on a device. It allocates once; runs only
//! launch.

use crate::backend::{Device, Program};
use crate::error::Result;
use crate::graph::{Graph, Plan, PlanOptions, TensorId};
use crate::weights::Weights;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Runs one graph many times.
pub struct Executor {
    graph: Arc<Graph>,
    plan: Arc<Plan>,
    program: Box<dyn Program>,
}

impl Executor {
    /// Plans `graph` and allocates on `device`.
    pub fn new(graph: Graph, options: &PlanOptions, weights: &Weights, device: &Device) -> Result<Executor> {
        let plan = Arc::new(Plan::new(&graph, options)?);
        let graph = Arc::new(graph);
        let program = device.prepare(graph.clone(), plan.clone(), weights)?;
        Ok(Executor { graph, plan, program })
    }

    /// The executed plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The executed graph.
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

    /// Copies an output of the last run into an input of another executor on the same device. On a
    /// GPU the data do not pass through host memory.
    pub fn copy_to(&self, output: TensorId, to: &mut Executor, input: TensorId) -> Result<()> {
        self.program.copy_out(output, self.graph.shape(output).numel(), to.program.as_mut(), input)
    }

    /// Copies an output of the last run into an input for the next run.
    pub fn carry(&mut self, output: TensorId, input: TensorId) -> Result<()> {
        self.program.carry(output, self.graph.shape(output).numel(), input)
    }

    /// Runs the graph once. With `DMAP_STEPWISE=1` in the environment it calls
    /// [`Executor::run_stepwise`].
    pub fn run(&mut self) -> Result<()> {
        static STEPWISE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("DMAP_STEPWISE").is_some_and(|v| v == "1"));
        if *STEPWISE { self.program.run_stepwise() } else { self.program.run() }
    }

    /// Runs the graph once, node by node. Fails at the first node that the device refuses or whose
    /// output is not finite; the error names the node.
    pub fn run_stepwise(&mut self) -> Result<()> {
        self.program.run_stepwise()
    }

    /// The time of each step of the plan when it runs by itself, without the gaps between launches
    /// if the device can measure that. Output values are meaningless afterwards.
    pub fn time_nodes(&mut self) -> Result<Vec<Duration>> {
        self.program.time_nodes()
    }

    /// If on, fills the arena with NaN before each run.
    pub fn set_poison(&mut self, on: bool) {
        self.program.set_poison(on);
    }
}
