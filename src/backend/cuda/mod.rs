//! The CUDA backend: the hand-written kernels in kernels/, recorded for each plan and launched
//! through the small trait [`Driver`].
//!
//! There are two drivers. `nvidia` is the real one, loaded dynamically. `emulated`, with the cargo
//! feature `emulate`, runs the same kernel sources on the CPU and checks their memory accesses.

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
