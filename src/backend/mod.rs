//! Devices that run plans. A [`Program`] is one plan bound to weights on one device.

pub mod cpu;
pub mod cuda;
mod program;

pub use program::Program;

use crate::error::{Error, Result};
use crate::graph::{Graph, Plan};
use crate::launch::Chip;
use crate::weights::Weights;
use std::sync::{Arc, Mutex, MutexGuard};

/// A device and the arena that all its programs share, so only one program runs at a time. Clones
/// are the same device; threads that share it take turns.
#[derive(Clone)]
pub struct Device {
    kind: Kind,
    turn: Arc<Mutex<()>>,
    /// The reason why `auto` did not use a CUDA device.
    without_cuda: Option<Arc<str>>,
}

#[derive(Clone)]
enum Kind {
    Cpu(Arc<Mutex<cpu::Arena>>),
    Cuda(cuda::CudaDevice),
}

impl Device {
    fn of(kind: Kind) -> Self {
        Device { kind, turn: Arc::default(), without_cuda: None }
    }

    /// Waits until no other thread works on this device, and keeps other threads out while the
    /// guard lives. If several threads share a device, programs that read each other's outputs must
    /// run under this guard. A thread that already holds the guard must not call this again: it
    /// would wait forever.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The CPU with all its cores. Restorations in a loop of rayon need a device each: a thread that
    /// waits for a part of its own may take up another one of the loop, which would wait for it.
    pub fn cpu() -> Self {
        Device::of(Kind::Cpu(Arc::default()))
    }

    /// The emulated CUDA device: every kernel runs on the CPU and its memory accesses are checked.
    /// Slow; for tests.
    #[cfg(feature = "emulate")]
    pub fn emulated(driver: cuda::emulated::Emulated) -> Self {
        Device::of(Kind::Cuda(cuda::CudaDevice::new(Arc::new(driver))))
    }

    /// The device that a `--device` flag names: `auto`, `cpu`, `cuda`, `cuda:N`, or in a build with
    /// the feature `emulate` also `emulated` (a Hopper chip) and `emulated:ada`. `auto` is the
    /// first CUDA device if it can be used, else the CPU.
    pub fn open(name: &str) -> Result<Self> {
        let asked_for = |ordinal| {
            Device::cuda(ordinal).map_err(|e| match e {
                Error::Device(reason) => Error::Device(format!("{reason}; use --device cpu")),
                other => other,
            })
        };
        match name {
            "cpu" => Ok(Device::cpu()),
            // A wrong value in an environment variable is an error; it must not move the work to
            // the CPU.
            "auto" => match Device::cuda(0) {
                Err(e @ Error::Invalid(_)) => Err(e),
                Err(e) => Ok(Device { without_cuda: Some(e.to_string().into()), ..Device::cpu() }),
                Ok(found) => Ok(found),
            },
            "cuda" => asked_for(0),
            #[cfg(feature = "emulate")]
            _ if name == "emulated" || name.starts_with("emulated:") => {
                use cuda::emulated::{Emulated, EmulatedChip};
                let wanted = name.strip_prefix("emulated:").unwrap_or("hopper");
                let Some(chip) = EmulatedChip::ALL.into_iter().find(|c| c.name() == wanted) else {
                    let known = EmulatedChip::ALL.map(EmulatedChip::name).join(", ");
                    return Err(Error::Invalid(format!("unknown emulated chip {wanted}: {known} are known")));
                };
                Ok(Device::emulated(Emulated::new(chip, 0)))
            }
            _ => match name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => asked_for(ordinal),
                None => Err(Error::Invalid(format!("unknown device {name}: use auto, cpu or cuda:0"))),
            },
        }
    }

    /// CUDA device number `ordinal`. An error says in one sentence if there is no driver, or if the
    /// driver or the chip is too old.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device::of(Kind::Cuda(cuda::CudaDevice::new(Arc::new(cuda::nvidia::Nvidia::open(ordinal)?)))))
    }

    /// True for the CPU backend.
    pub fn is_cpu(&self) -> bool {
        matches!(self.kind, Kind::Cpu(_))
    }

    /// Name for reports; the CPU's name includes the number of threads.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Cpu(_) => format!("cpu ({} threads)", rayon::current_num_threads()),
            Kind::Cuda(device) => device.driver.name(),
        }
    }

    /// The name; if `auto` chose the CPU, also the reason why no CUDA device could be used.
    pub fn name_and_reason(&self) -> String {
        let Some(reason) = &self.without_cuda else { return self.name() };
        format!("{}, not CUDA: {reason}", self.name())
    }

    /// Free device memory in bytes, counting all programs on the machine; none for the CPU.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        match &self.kind {
            Kind::Cpu(_) => Ok(None),
            Kind::Cuda(device) => device.driver.free_bytes(),
        }
    }

    /// The chip that kernel launches are made for; none for the CPU.
    pub fn chip(&self) -> Option<Chip> {
        match &self.kind {
            Kind::Cpu(_) => None,
            Kind::Cuda(device) => Some(device.driver.chip().clone()),
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
