//! Imports that every op file needs.

pub(super) use crate::error::Result;
pub(super) use crate::graph::record::{
    CpuArguments, FIRST_ORDER_ONLY, Op, Output, Reverse, Tensor, expect_inputs, expect_shape, single, storage,
};
pub(super) use crate::kernels;
pub(super) use crate::launch::{Kernel, Operand, Recorder};
pub(super) use crate::tensor::Shape;
