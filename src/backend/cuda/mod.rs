//! The CUDA backend: hand-written kernels (kernels/), recorded per plan, launched through a small [`Driver`] trait.
//!
//! Two drivers: `nvidia`, the real one, loaded dynamically; and, with the cargo feature `emulate`, `emulated`, which runs the same
//! kernel sources on the CPU and looks for mistakes while it does.

mod device;
pub mod driver;
#[cfg(feature = "emulate")]
pub mod emulated;
mod first_use;
pub mod images;
mod kernel_files;
pub mod nvidia;
#[allow(missing_docs)]
#[path = "nvrtc.rs"]
pub mod nvrtc;
mod program;
mod record;

pub use device::CudaDevice;
pub use driver::{Driver, Replay};
pub use program::CudaProgram;
pub use record::launches_for;
