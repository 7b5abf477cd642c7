//! CPU algorithms for a convolution.

mod direct;
mod line;
mod winograd;
