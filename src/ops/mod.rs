//! The operations of a graph, one file per family.
//!
//! Every op states, as part of its type: its shape rule, its hand-derived VJP, its cost, and its CPU code.
//! There is no default VJP: an op that has no gradient says so.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod axis_filter;
pub mod clamp;
pub mod concat;
pub mod conv;
pub mod crop;
pub mod diagonal_gaussian;
pub mod embedding;
pub mod filter2d;
pub mod geglu;
pub mod gelu;
pub mod group_norm;
pub mod layer_norm;
pub mod learned_noise;
pub mod linear;
pub mod linear_combination;
pub mod mask;
pub mod norm;
pub mod normal_noise;
pub mod resample;
pub mod silu;
pub mod sphere_projection;
pub mod timestep_embedding;

use crate::backend::cuda::{Params, Recorder};
use crate::error::{Error, Result};
use crate::graph::{Precision, Reverse, Shape, Tensor};

/// Why gradients of gradients are refused.
pub(crate) const FIRST_ORDER_ONLY: &str = "only first derivatives are derived";

/// Description of one output of an op.
pub struct Output {
    /// Empty for the main output, else what it is (`mean`, `lse`).
    pub name: &'static str,
    /// Extent.
    pub shape: Shape,
    /// Storage class.
    pub precision: Precision,
}

/// An output in the storage type of the run.
pub(crate) fn storage(shape: Shape) -> Output {
    Output { name: "", shape, precision: Precision::Storage }
}

/// An output that is always f32.
pub(crate) fn full(name: &'static str, shape: Shape) -> Output {
    Output { name, shape, precision: Precision::Full }
}

/// An operation: its rule for shapes, its derivative, its cost, its code.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// One name everywhere: file, kernel, case table, bench row.
    fn name(&self) -> &'static str;

    /// Outputs for these inputs, or what was expected and found.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String>;

    /// Appends the vector-Jacobian product for every input that [`Reverse::wants`] one.
    fn vjp(&self, reverse: &mut Reverse<'_>) -> Result<()>;

    /// Operations of one run, 2 per multiply-add.
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64;

    /// Inputs whose place the first output may take over.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Runs on the CPU.
    fn run_cpu(&self, launch: &mut Launch<'_>);

    /// Records the kernel launches of one run on a CUDA device. An op that a program brings along may do without.
    fn record_cuda(&self, _: &mut Recorder<'_>) -> Result<()> {
        Err(Error::Device(format!("the operation {} has no CUDA kernel; use --device cpu", self.name())))
    }
}

/// Data of one run of an op on the CPU.
pub struct Launch<'a> {
    /// Inputs; the one that [`Launch::in_place`] names is empty, its data stand in the first output.
    pub inputs: Vec<&'a [f32]>,
    /// Outputs, to be written in full.
    pub outputs: Vec<&'a mut [f32]>,
    /// Extents of the inputs.
    pub input_shapes: Vec<Shape>,
    /// Extents of the outputs.
    pub output_shapes: Vec<Shape>,
    /// Input that the first output has taken the place of.
    pub in_place: Option<usize>,
}

impl<'a> Launch<'a> {
    /// Input `i`, or none if it already stands in the first output.
    pub fn input_unless_in_place(&self, i: usize) -> Option<&'a [f32]> {
        (self.in_place != Some(i)).then(|| self.inputs[i])
    }
}

/// Fails unless there are `expected` inputs.
pub(crate) fn expect_inputs(inputs: &[&Tensor], expected: usize) -> Result<(), String> {
    if inputs.len() == expected {
        return Ok(());
    }
    Err(format!("expected {expected} inputs, found {}", inputs.len()))
}

/// Fails unless `tensor` has the shape `expected`.
pub(crate) fn expect_shape(tensor: &Tensor, expected: Shape) -> Result<(), String> {
    if tensor.shape == expected {
        return Ok(());
    }
    Err(format!("{} should have shape {expected} but has {}", tensor.name, tensor.shape))
}
