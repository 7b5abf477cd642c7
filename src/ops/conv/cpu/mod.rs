//! CPU algorithms for a convolution.

mod direct;
mod line;
pub(super) mod weight;
mod winograd;
