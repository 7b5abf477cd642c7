//! The three findings of Xu et al. (ICLR 2025) about diffusion posterior sampling, measured on
//! priors whose posterior is known, and on networks.
//!
//! ```text
//!     prior (mixture, increments) + operator --> Problem --> Levels: denoiser, posterior, chains
//!                                                               |
//!            score_error, score_mean, diversity, calibration <--+--> Report: table, claims, plot
//! ```
//!
//! All of it is f64 on the CPU, without a graph and without a network.
//!
//! ```
//! use dmap::analyse::{Finding, Options, Problem, Verdict, analyse};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> dmap::Result<()> {
//! let problem = Problem::new("gaussian", "identity", 25.0, 60, 0)?;
//! let options = Options { signals: 4, points: 6, ..Options::usual(Finding::ScoreError, false) };
//! let go_on = |_, _| ControlFlow::Continue(());
//! let report = analyse(&problem, Finding::ScoreError, &options, &go_on)?;
//! // With its largest step size DPS is farther from the posterior score than the prior's score is.
//! assert_eq!(report.claims[4].verdict, Verdict::Holds);
//! # Ok(())
//! # }
//! ```

pub mod calibration;
pub mod chain;
pub mod diversity;
pub mod exact;
pub mod gibbs;
pub mod increments;
pub mod laws;
pub mod linear;
pub mod mixture;
pub mod network;
pub mod operators;
pub mod options;
pub mod plot;
pub mod prior;
pub mod problem;
pub mod report;
pub mod samples;
pub mod score_error;
pub mod score_mean;
pub mod statistics;
pub mod work;

pub use exact::analyse;
pub use operators::LINEAR_OPERATORS;
pub use options::{Finding, Options};
pub use problem::{EXACT_PRIORS, Problem};
pub use report::{Claim, Report};
pub use statistics::{Estimate, Verdict};
