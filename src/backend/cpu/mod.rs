//! The CPU backend: f32 on all cores. It is the reference for the kernels, and the default without
//! a GPU.

pub mod channel_loops;
pub mod math;
pub mod matmul;
pub mod parallel;
mod program;

pub use program::{Arena, CpuProgram};
