// Generates the Rust versions of the kernels' parameter structs and entry points, which
// src/kernels.rs includes.

mod comments;
mod names;
mod rust;
mod structs;

pub use names::kernels;
pub use rust::rust;
#[allow(unused_imports, reason = "the tests name Kind")]
pub use structs::{Kind, structs};
