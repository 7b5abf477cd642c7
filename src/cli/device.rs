//! Flags for the device, the precision and the memory of a run.

use super::quantity;
use crate::backend::Device;
use crate::error::Result;
use crate::graph::PlanOptions;
use crate::ops::variant_tables;
use crate::tensor::Dtype;
use clap::{Args, ValueEnum};

/// `--device`, `--precision` and `--memory`.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Device and memory")]
pub(crate) struct DeviceFlags {
    /// cpu, cuda, cuda:N, or auto: the first CUDA device that can be used, else the CPU
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    storage: StorageFlags,
}

/// `--precision` and `--memory`: all that a plan depends on.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Device and memory")]
pub(crate) struct StorageFlags {
    /// Storage type of activations and weights; sums are always f32. The CPU takes f32 only
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionFlag,
    /// Memory for weights and activations, such as 4GiB; activations are recomputed to fit
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// If --memory can't be met otherwise, leave large weights with the host (on the CPU: in their
    /// file) and fetch them when they are read
    #[arg(long, requires = "memory")]
    offload: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum PrecisionFlag {
    /// f32, products in TF32 where the device has it
    F32,
    /// f32 throughout
    F32Strict,
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

impl StorageFlags {
    /// The plan options that these flags select.
    pub fn plan(&self) -> Result<PlanOptions> {
        let (storage, tf32) = match self.precision {
            PrecisionFlag::F32 => (Dtype::F32, true),
            PrecisionFlag::F32Strict => (Dtype::F32, false),
            PrecisionFlag::F16 => (Dtype::F16, true),
            PrecisionFlag::Bf16 => (Dtype::Bf16, true),
        };
        let memory = self.memory.as_deref().map(quantity::bytes).transpose()?;
        let variants = variant_tables::from_environment()?;
        Ok(PlanOptions { storage, tf32, memory, offload: self.offload, variants, ..PlanOptions::default() })
    }
}

impl DeviceFlags {
    /// Opens the device that the flags select.
    pub fn open(&self) -> Result<Device> {
        Device::open(&self.device)
    }

    /// The plan options that these flags select.
    pub fn plan(&self) -> Result<PlanOptions> {
        self.storage.plan()
    }

    /// The precision as the user types it.
    pub fn precision(&self) -> &'static str {
        match self.storage.precision {
            PrecisionFlag::F32 => "f32",
            PrecisionFlag::F32Strict => "f32-strict",
            PrecisionFlag::F16 => "f16",
            PrecisionFlag::Bf16 => "bf16",
        }
    }
}
