//! The parameter structs of the kernels, and the kernels with a fixed name. build.rs generates them
//! from `kernels/`.
//!
//! `Kernel::named` finds a kernel of a family, for example the one for a storage type.

#![allow(dead_code)]

use crate::launch::{Either, Fields, Kernel, Parameters, Params, Place, TensorMap};
use crate::tensor::Dtype;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
