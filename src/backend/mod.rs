//! Where a plan runs. A [`Program`] is one plan bound to weights on one device.

pub mod cpu;

use crate::error::{Error, Result};
use crate::graph::{Graph, Plan, TensorId};
use crate::weights::Weights;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A plan made ready on a device: the arena and the weights are there, runs allocate nothing planned.
pub trait Program: Send {
    /// Writes an input.
    fn write(&mut self, input: TensorId, values: &[f32]);
    /// Reads an output of the last run, before another program on the same device runs.
    fn read(&self, output: TensorId, values: &mut [f32]);
    /// Runs every step once.
    fn run(&mut self) -> Result<()>;
    /// Runs every step once and gives the time that each took.
    fn run_timed(&mut self) -> Result<Vec<Duration>>;
    /// From now on fills the arena with NaN before each run, so that a value read before it is written shows.
    fn set_poison(&mut self, on: bool);
}

/// A device with the arena that all its programs share: only one runs at a time.
#[derive(Clone)]
pub struct Device {
    arena: Arc<Mutex<cpu::Arena>>,
}

impl Device {
    /// The CPU with all its cores.
    pub fn cpu() -> Self {
        Device { arena: Arc::default() }
    }

    /// The device that a `--device` flag names: `auto` or `cpu`.
    pub fn open(name: &str) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Device::cpu()),
            _ if name.starts_with("cuda") => Err(Error::Device(format!(
                "--device {name}: this version of dmap has no CUDA backend yet; use --device cpu"
            ))),
            _ => Err(Error::Invalid(format!("unknown device {name}: use auto or cpu"))),
        }
    }

    /// Name for reports, with the number of threads.
    pub fn name(&self) -> String {
        format!("cpu ({} threads)", rayon::current_num_threads())
    }

    /// Binds `plan` to `weights` on this device.
    pub fn prepare(&self, graph: Arc<Graph>, plan: Arc<Plan>, weights: &Weights) -> Result<Box<dyn Program>> {
        Ok(Box::new(cpu::CpuProgram::new(graph, plan, weights, self.arena.clone())?))
    }
}
