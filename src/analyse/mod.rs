//! Priors whose posterior is known, and diffusion posterior sampling on them.
//!
//! All of it is f64 on the CPU, without a graph and without a network.

pub mod chain;
pub mod gibbs;
pub mod increments;
pub mod laws;
pub mod linear;
pub mod mixture;
pub mod operators;
pub mod prior;
pub mod problem;
pub mod statistics;

pub use operators::LINEAR_OPERATORS;
pub use problem::{EXACT_PRIORS, Problem};
pub use statistics::{Estimate, Verdict};
