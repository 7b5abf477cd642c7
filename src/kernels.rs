//! The parameter structs of the kernels, and the kernels that have a name of their own, as build.rs reads them out of `kernels/`.
//!
//! A kernel of a family, such as one for each storage type, is found by `Kernel::named`.

#![allow(dead_code)]

use crate::launch::{Either, Fields, Kernel, Parameters, Params, Place, TensorMap};
use crate::tensor::Dtype;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
