//! The CUDA backend: hand-written kernels (kernels/), recorded per plan, launched through a small [`Driver`] trait.
//!
//! Two drivers: `nvidia`, the real one, loaded dynamically; and, with the cargo feature `emulate`, `emulated`, which runs the same
//! kernel sources on the CPU and looks for mistakes while it does.

pub mod driver;
#[cfg(feature = "emulate")]
pub mod emulated;
mod first_use;
pub mod images;
pub mod launch;
pub mod nvidia;
#[allow(missing_docs)]
#[path = "nvrtc.rs"]
pub mod nvrtc;
mod program;
mod record;

pub use driver::{Driver, Limits, Replay};
pub use launch::{Operand, Params, Recorder};
pub use program::CudaProgram;
pub use record::launches_for;

use program::{Buffer, WeightCache};
use std::sync::{Arc, Mutex};

/// A device with what its programs share: only one of them runs at a time.
#[derive(Clone)]
pub struct CudaDevice {
    pub(crate) driver: Arc<dyn Driver>,
    shared: Arc<Mutex<Shared>>,
    /// The program whose values lie in the arena. Held while a program runs or is read, and while the arena grows.
    owner: Arc<Mutex<u64>>,
}

#[derive(Default)]
struct Shared {
    arena: Option<Buffer>,
    scratch: Option<Buffer>,
    weights: WeightCache,
}

impl CudaDevice {
    /// A device over `driver`.
    pub fn new(driver: Arc<dyn Driver>) -> CudaDevice {
        CudaDevice { driver, shared: Arc::default(), owner: Arc::default() }
    }
}
