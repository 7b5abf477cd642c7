//! Solvers of a convolution on the CPU.

mod direct;
mod line;
mod winograd;
