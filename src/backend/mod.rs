//! Where a plan runs. A [`Program`] is one plan bound to weights on one device.

pub mod cpu;
pub mod cuda;

use crate::error::{Error, Result};
use crate::graph::{Graph, Plan, TensorId};
use crate::weights::Weights;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A plan made ready on a device: the arena and the weights are there, runs allocate nothing planned.
pub trait Program: Send {
    /// Writes an input.
    fn write(&mut self, input: TensorId, values: &[f32]) -> Result<()>;
    /// Reads an output of the last run, before another program on the same device runs.
    fn read(&self, output: TensorId, values: &mut [f32]) -> Result<()>;
    /// Runs every step once.
    fn run(&mut self) -> Result<()>;
    /// Runs every step once and gives the time that each took.
    fn run_timed(&mut self) -> Result<Vec<Duration>>;
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

/// A device with the arena that all its programs share: only one runs at a time.
#[derive(Clone)]
pub struct Device(Kind);

#[derive(Clone)]
enum Kind {
    Cpu(Arc<Mutex<cpu::Arena>>),
    Cuda(cuda::CudaDevice),
}

impl Device {
    /// The CPU with all its cores.
    pub fn cpu() -> Self {
        Device(Kind::Cpu(Arc::default()))
    }

    /// The emulated CUDA device: every kernel runs on the CPU and is watched for mistakes. Slow, for tests.
    #[cfg(feature = "emulate")]
    pub fn emulated(seed: u64) -> Self {
        Device(Kind::Cuda(cuda::CudaDevice::new(Arc::new(cuda::emulated::Emulated::new(seed)))))
    }

    /// The device that a `--device` flag names: `auto`, `cpu`, `cuda`, `cuda:N`, or `emulated` in a build that has it.
    /// `auto` takes the first CUDA device that can be used, else the CPU.
    pub fn open(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Device::cpu()),
            "auto" => Ok(Device::cuda(0).unwrap_or_else(|_| Device::cpu())),
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
        Ok(Device(Kind::Cuda(cuda::CudaDevice::new(Arc::new(cuda::nvidia::Nvidia::open(ordinal)?)))))
    }

    /// True for the CPU backend.
    pub fn is_cpu(&self) -> bool {
        matches!(self.0, Kind::Cpu(_))
    }

    /// Name for reports: of the CPU with the number of threads.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Cpu(_) => format!("cpu ({} threads)", rayon::current_num_threads()),
            Kind::Cuda(device) => device.driver.name(),
        }
    }

    /// Binds `plan` to `weights` on this device.
    pub fn prepare(&self, graph: Arc<Graph>, plan: Arc<Plan>, weights: &Weights) -> Result<Box<dyn Program>> {
        Ok(match &self.0 {
            Kind::Cpu(arena) => Box::new(cpu::CpuProgram::new(graph, plan, weights, arena.clone())?),
            Kind::Cuda(device) => Box::new(cuda::CudaProgram::new(graph, plan, weights, device.clone())?),
        })
    }
}
