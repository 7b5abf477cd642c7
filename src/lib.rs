//! dmap
#![allow(missing_docs)]
pub mod backend;
pub mod cli;
pub mod compare;
pub mod error;
pub mod executor;
pub mod graph;
pub mod image;
pub mod metrics;
pub mod model;
pub mod noise;
pub mod operator;
pub mod ops;
pub mod sampler;
pub mod weights;
pub use error::{Error, Result};
