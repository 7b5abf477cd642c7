//! A plan bound to a device, whatever the device.

use crate::error::{Error, Result};
use crate::graph::{Graph, Step, TensorId};
use crate::tensor::Dtype;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A plan bound to a device: arena and weights are allocated, and runs allocate no planned memory.
pub trait Program: Send {
    /// Writes an input.
    fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()>;
    /// Reads an output of the last run. Fails if another program has run on the same device since,
    /// because they share one arena.
    fn read(&self, output: TensorId, values: &mut [f32]) -> Result<()>;
    /// Runs every step once.
    fn run(&mut self) -> Result<()>;
    /// The time of each step when it runs by itself, without the gaps between launches if the
    /// device can measure that.
    fn time_nodes(&mut self) -> Result<Vec<Duration>>;
    /// Runs every step once and waits for each. Fails at the first step that the device refuses or
    /// whose output is not finite; the error names the node.
    fn run_stepwise(&mut self) -> Result<()>;
    /// If on, fills the arena with NaN before each run, so that a value read before it is written
    /// becomes visible.
    fn set_poison(&mut self, on: bool);

    /// The device address of an input, if there is one.
    fn input_address(&self, _: TensorId) -> Option<u64> {
        None
    }

    /// Copies an output of the last run, `count` values, into an input of another program.
    fn copy_out(&self, output: TensorId, count: usize, to: &mut dyn Program, input: TensorId) -> Result<()> {
        let mut values = vec![0.0; count];
        self.read(output, &mut values)?;
        to.write(input, &values)
    }

    /// Copies an output of the last run, `count` values, into an input of this program for the next
    /// run.
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

/// A number that identifies a program in this process; 0 is no program.
pub(crate) fn program_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Fails if the arena holds values of another program.
pub(crate) fn check_owner(owner: u64, program: u64) -> Result<()> {
    if owner == program {
        return Ok(());
    }
    let reason =
        "an output is read after another program has run on the same device, in whose arena it lay: read it before";
    Err(Error::Invalid(reason.into()))
}
