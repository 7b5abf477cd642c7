//! The CPU backend: f32, all cores. It is the reference for the kernels and the default where there is no GPU.

pub mod channel_loops;
mod conv_line;
pub mod direct_conv;
pub mod matmul;
pub mod parallel;
mod program;
mod winograd;

pub use program::{Arena, CpuProgram};
