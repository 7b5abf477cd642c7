//! What the VJP rule of an op is given and what it gives.

use super::record::{Op, Reverse, TensorId};
use crate::error::{Error, Result};
use crate::tensor::Shape;

impl Reverse<'_> {
    /// Gradient of the objective with respect to output `i`. An error if only other outputs have a
    /// gradient.
    pub fn dout(&self, i: usize) -> Result<TensorId> {
        self.douts[i].ok_or_else(|| self.refusal(0, "its statistics output has no gradient"))
    }

    /// Gradient with respect to output `i`, if there is one.
    pub fn dout_if_any(&self, i: usize) -> Option<TensorId> {
        self.douts.get(i).copied().flatten()
    }

    /// Input `i` of the node.
    pub fn input(&self, i: usize) -> TensorId {
        self.node.inputs[i]
    }

    /// Output `i` of the node.
    pub fn out(&self, i: usize) -> TensorId {
        self.node.outputs[i]
    }

    /// Shape of input `i`.
    pub fn shape(&self, i: usize) -> Shape {
        self.graph.shape(self.node.inputs[i])
    }

    /// True if a gradient with respect to input `i` is needed.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted[i]
    }

    /// Returns the gradient that other nodes have already contributed to input `i`, for a VJP
    /// kernel that adds to it. The gradient from the rule then replaces the sum.
    pub fn accumulate(&mut self, i: usize) -> Option<TensorId> {
        self.accumulated[i].take()
    }

    /// As [`Reverse::accumulate`] for two inputs whose gradients one kernel makes: both or none.
    pub fn accumulate_both(&mut self, inputs: [usize; 2]) -> Vec<TensorId> {
        if inputs.iter().any(|&i| self.accumulated[i].is_none()) {
            return Vec::new();
        }
        inputs.iter().filter_map(|&i| self.accumulate(i)).collect()
    }

    /// Sets the gradient with respect to input `i`.
    pub fn give(&mut self, i: usize, gradient: TensorId) {
        debug_assert_eq!(self.graph.shape(gradient).numel(), self.shape(i).numel(), "{}", self.node.name);
        self.given[i] = Some(gradient);
    }

    /// Gives the gradient with respect to input `i`, if it is wanted: the output of `op`, whose
    /// inputs are `inputs` and then, if there is one, the gradient that it adds to.
    pub fn give_sum(&mut self, i: usize, op: impl Op + 'static, inputs: &[TensorId]) -> Result<()> {
        if self.wants(i) {
            let inputs: Vec<TensorId> = inputs.iter().copied().chain(self.accumulate(i)).collect();
            let name = self.name();
            let gradient = self.graph.one(op, &name, &inputs)?;
            self.give(i, gradient);
        }
        Ok(())
    }

    /// Fails with `reason` if a gradient with respect to any of `inputs` is needed.
    pub fn not_differentiable(&self, inputs: impl IntoIterator<Item = usize>, reason: &'static str) -> Result<()> {
        match inputs.into_iter().find(|&i| self.wanted[i]) {
            Some(i) => Err(self.refusal(i, reason)),
            None => Ok(()),
        }
    }

    fn refusal(&self, input: usize, reason: &'static str) -> Error {
        Error::NotDifferentiable { node: self.node.name.clone(), op: self.node.op.name(), input, reason }
    }

    /// A name for a node that the rule appends.
    pub fn name(&self) -> String {
        format!("{}.vjp", self.node.name)
    }
}
