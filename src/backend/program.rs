//! A plan made ready on a device, whatever the device.

use crate::error::{Error, Result};
use crate::graph::{Graph, Step, TensorId};
use crate::tensor::Dtype;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A plan made ready on a device: the arena and the weights are there, runs allocate nothing planned.
pub trait Program: Send {
    /// Writes an input.
    fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()>;
    /// Reads an output of the last run. Fails if another program has run on the same device since: they share one arena.
    fn read(&self, output: TensorId, values: &mut [f32]) -> Result<()>;
    /// Runs every step once.
    fn run(&mut self) -> Result<()>;
    /// The time of one run of each step by itself, without the gaps between launches where the device can tell.
    fn time_nodes(&mut self) -> Result<Vec<Duration>>;
    /// Runs every step once, waits for each, and fails at the first whose output is not finite, or that the device refuses, by
    /// the name of its node.
    fn run_stepwise(&mut self) -> Result<()>;
    /// From now on fills the arena with NaN before each run, so that a value read before it is written shows.
    fn set_poison(&mut self, on: bool);

    /// The device address of an input, where there is one.
    fn input_address(&self, _: TensorId) -> Option<u64> {
        None
    }

    /// Copies an output of `count` values of the last run into an input of another program.
    fn copy_out(&self, output: TensorId, count: usize, to: &mut dyn Program, input: TensorId) -> Result<()> {
        let mut values = vec![0.0; count];
        self.read(output, &mut values)?;
        to.write(input, &values)
    }

    /// Copies an output of `count` values of the last run into an input of this program, for the next run.
    fn carry(&mut self, output: TensorId, count: usize, input: TensorId) -> Result<()> {
        let mut values = vec![0.0; count];
        self.read(output, &mut values)?;
        self.write(input, &values)
    }
}

/// Fails if a step wrote a value that is not finite.
pub(crate) fn check_finite(graph: &Graph, step: &Step, output: TensorId, storage: Dtype, values: &[f32]) -> Result<()> {
    let Some(i) = values.iter().position(|v| !v.is_finite()) else { return Ok(()) };
    let (name, shape, run) = (&graph.node(step.node).name, graph.shape(output), storage.name());
    let reason = format!("node {name} wrote {} at element {i} of {shape} in a run of {run}", values[i]);
    Err(Error::NotFinite { item: None, reason })
}

/// Tells a program from all others of the process; 0 is none.
pub(crate) fn program_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Fails if the arena holds what another program left there.
pub(crate) fn check_owner(owner: u64, program: u64) -> Result<()> {
    if owner == program {
        return Ok(());
    }
    let reason =
        "an output is read after another program has run on the same device, in whose arena it lay: read it before";
    Err(Error::Invalid(reason.into()))
}
