//! The operations of a graph, one file per family.
//!
//! Every op defines its shape rule, its hand-derived VJP, its cost and its CPU code. There is no
//! default VJP: an op without a gradient returns an error from its rule.

pub mod adamw;
pub mod adamw_step;
pub mod add;
pub mod attention;
pub mod axis_filter;
pub mod channel_mix;
pub mod concat;
pub mod conjugate_gradient;
pub mod conv;
pub mod crop;
pub mod diagonal_gaussian;
pub mod embedding;
pub mod filter2d;
pub mod fourier;
pub mod geglu;
pub mod group_norm;
pub mod layer_norm;
pub mod learned_noise;
pub mod linear;
pub mod linear_combination;
pub mod mask;
pub mod modulus;
pub mod norm;
pub mod normal_noise;
mod partial_sums;
pub mod pixel_shuffle;
pub mod pixel_sum;
pub mod pointwise;
mod prelude;
pub mod quantise;
pub mod resample;
pub mod sparse_product;
pub mod spectral_step;
pub mod sphere_projection;
pub mod storage_copy;
pub mod thin_edges;
pub mod timestep_embedding;
pub mod variant_tables;
pub mod variants;

pub use crate::graph::record::{CpuArguments, Op, Output};
