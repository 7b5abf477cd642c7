//! Where a plan runs. A [`Program`] is one plan bound to weights on one device.

pub mod cpu;
pub mod cuda;

use crate::error::{Error, Result};
use crate::graph::{Dtype, Graph, Plan, Step, TensorId};
use crate::weights::Weights;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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
fn check_finite(graph: &Graph, step: &Step, output: TensorId, storage: Dtype, values: &[f32]) -> Result<()> {
    let Some(i) = values.iter().position(|v| !v.is_finite()) else { return Ok(()) };
    let (name, shape, run) = (&graph.node(step.node).name, graph.shape(output), storage.name());
    let reason = format!("node {name} wrote {} at element {i} of {shape} in a run of {run}", values[i]);
    Err(Error::NotFinite { item: None, reason })
}

/// Tells a program from all others of the process; 0 is none.
fn program_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Fails if the arena holds what another program left there.
fn check_owner(owner: u64, program: u64) -> Result<()> {
    if owner == program {
        return Ok(());
    }
    let reason =
        "an output is read after another program has run on the same device, in whose arena it lay: read it before";
    Err(Error::Invalid(reason.into()))
}

/// A device with the arena that all its programs share: only one runs at a time. Clones are the same device; threads that share it
/// take turns.
#[derive(Clone)]
pub struct Device {
    kind: Kind,
    turn: Arc<Mutex<()>>,
}

#[derive(Clone)]
enum Kind {
    Cpu(Arc<Mutex<cpu::Arena>>),
    Cuda(cuda::CudaDevice),
}

impl Device {
    fn of(kind: Kind) -> Self {
        Device { kind, turn: Arc::default() }
    }

    /// Waits until no other thread works on this device, and keeps others out while the guard lives. Programs that read each
    /// other's outputs need it around their runs where several threads share a device. It must not be asked for twice.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The CPU with all its cores.
    pub fn cpu() -> Self {
        Device::of(Kind::Cpu(Arc::default()))
    }

    /// The emulated CUDA device: every kernel runs on the CPU and is watched for mistakes. Slow, for tests.
    #[cfg(feature = "emulate")]
    pub fn emulated(seed: u64) -> Self {
        Device::of(Kind::Cuda(cuda::CudaDevice::new(Arc::new(cuda::emulated::Emulated::new(seed)))))
    }

    /// The device that a `--device` flag names: `auto`, `cpu`, `cuda`, `cuda:N`, or `emulated` in a build that has it.
    /// `auto` takes the first CUDA device that can be used, else the CPU.
    pub fn open(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Device::cpu()),
            // A variable with a wrong value is no reason to compute somewhere else.
            "auto" => match Device::cuda(0) {
                Err(e @ Error::Invalid(_)) => Err(e),
                found => Ok(found.unwrap_or_else(|_| Device::cpu())),
            },
            "cuda" => Device::cuda(0),
            #[cfg(feature = "emulate")]
            "emulated" => Ok(Device::emulated(0)),
            _ => match name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Device::cuda(ordinal),
                None => Err(Error::Invalid(format!("unknown device {name}: use auto, cpu or cuda:0"))),
            },
        }
    }

    /// CUDA device number `ordinal`. Without a driver, with one that is too old, or on a chip that is too old: one sentence.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device::of(Kind::Cuda(cuda::CudaDevice::new(Arc::new(cuda::nvidia::Nvidia::open(ordinal)?)))))
    }

    /// True for the CPU backend.
    pub fn is_cpu(&self) -> bool {
        matches!(self.kind, Kind::Cpu(_))
    }

    /// Name for reports: of the CPU with the number of threads.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Cpu(_) => format!("cpu ({} threads)", rayon::current_num_threads()),
            Kind::Cuda(device) => device.driver.name(),
        }
    }

    /// Bytes of device memory that are free, whoever took the others; none for the CPU.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        match &self.kind {
            Kind::Cpu(_) => Ok(None),
            Kind::Cuda(device) => device.driver.free_bytes(),
        }
    }

    /// What the launches of its kernels depend on; none for the CPU.
    pub fn limits(&self) -> Option<cuda::Limits> {
        match &self.kind {
            Kind::Cpu(_) => None,
            Kind::Cuda(device) => Some(device.driver.limits().clone()),
        }
    }

    /// Binds `plan` to `weights` on this device.
    pub fn prepare(&self, graph: Arc<Graph>, plan: Arc<Plan>, weights: &Weights) -> Result<Box<dyn Program>> {
        Ok(match &self.kind {
            Kind::Cpu(arena) => Box::new(cpu::CpuProgram::new(graph, plan, weights, arena.clone())?),
            Kind::Cuda(device) => Box::new(cuda::CudaProgram::new(graph, plan, weights, device.clone())?),
        })
    }
}
