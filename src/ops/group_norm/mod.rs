//! Group normalisation with affine, optional FiLM scale-shift and SiLU in one op, of one tensor or of two whose channels follow
//! each other.
//!
//! `xhat = (x - mean_g) rstd_g`, `u = (gamma xhat + beta) (1 + scale) + shift`, `y = silu(u)` or `y = u`.
//! VJP: du = dy silu'(u); p = du gamma (1 + scale); with averages over the group of item n,
//! dx = rstd (p - avg(p) - xhat avg(p xhat)): the mean and the deviation each take their part of p away.
//! dscale = sum over pixels of du (gamma xhat + beta), dshift = sum over pixels of du.
//! Needs x, mean, rstd and the parameters; y is never kept. The VJP can add to a gradient that is already there.

mod cpu;
mod launch;
mod options;

pub use options::GroupNormOptions;

use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use launch::CudaNorm;

/// The normalisation. Inputs: x, gamma, beta, then film (n, 1, 1, 2c: scale, shift) and the second source if any.
/// Outputs: y, mean, rstd (n, 1, 1, groups).
#[derive(Debug, Clone)]
pub struct GroupNorm(pub GroupNormOptions);

/// Gradient by x, and by the second source if there is one. Inputs: dy, x, mean, rstd, gamma, beta, then film and the second source
/// if any, then, for one source, the gradient to add to if any.
#[derive(Debug, Clone)]
pub struct GroupNormVjp {
    /// Of the forward pass.
    pub options: GroupNormOptions,
    /// The last input is added to the gradient.
    pub addend: bool,
}

/// Gradient by film. Inputs as [`GroupNormVjp`], without an addend.
#[derive(Debug, Clone)]
pub struct GroupNormFilmVjp(pub GroupNormOptions);

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1 + self.0.parameters())?;
        let x = self.0.check(inputs[0], &inputs[1..])?;
        let statistics = Shape::rows(x.n, self.0.groups);
        Ok(vec![storage(x), full("mean", statistics), full("rstd", statistics)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(1..3, "weights are fixed")?;
        let (options, name) = (self.0, r.name());
        let mut inputs = vec![r.dout(0)?, r.input(0), r.out(1), r.out(2)];
        inputs.extend(&r.node.inputs[1..]);
        if options.film && r.wants(3) {
            let dfilm = r.graph.one(GroupNormFilmVjp(options), &name, &inputs)?;
            r.give(3, dfilm);
        }
        let second = options.parameters();
        if options.joined && (r.wants(0) || r.wants(second)) {
            let both = r.graph.add(GroupNormVjp { options, addend: false }, &name, &inputs)?;
            r.give(0, both[0]);
            r.give(second, both[1]);
        } else if r.wants(0) {
            let sum = r.accumulate(0);
            inputs.extend(sum);
            let dx = r.graph.one(GroupNormVjp { options, addend: sum.is_some() }, &name, &inputs)?;
            r.give(0, dx);
        }
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        14 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        cpu::normalise(self.0, launch);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let norm = CudaNorm::forward(r, self.0);
        norm.record(r, "group_norm_of_group", ["group_norm_statistics", "group_norm_combine", "group_norm"])
    }
}

impl Op for GroupNormVjp {
    fn name(&self) -> &'static str {
        "group_norm_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        let options = self.options;
        if options.joined && self.addend {
            return Err("a gradient by two sources is not added to another".into());
        }
        expect_inputs(inputs, 4 + options.parameters() + self.addend as usize)?;
        let x = options.check(inputs[1], &inputs[4..])?;
        expect_shape(inputs[0], x)?;
        if self.addend {
            expect_shape(inputs[inputs.len() - 1], x)?;
        }
        let mut outputs = vec![storage(inputs[1].shape)];
        if let Some(second) = options.second(&inputs[4..]) {
            outputs.push(Output { name: "second", ..storage(second.shape) });
        }
        Ok(outputs)
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        28 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        // Of two sources neither gradient has the extent of dy.
        if self.options.joined { &[] } else { &[0] }
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        cpu::vjp(self.options, self.addend, launch);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let norm = CudaNorm::reverse(r, self.options, self.addend);
        norm.record(
            r,
            "group_norm_vjp_of_group",
            ["group_norm_vjp_statistics", "group_norm_vjp_combine", "group_norm_vjp"],
        )
    }
}

impl Op for GroupNormFilmVjp {
    fn name(&self) -> &'static str {
        "group_norm_film_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4 + self.0.parameters())?;
        self.0.check(inputs[1], &inputs[4..])?;
        Ok(vec![storage(inputs[6].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        18 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        cpu::film_vjp(self.0, launch);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaNorm::reverse(r, self.0, false).record_film(r)
    }
}

impl Graph {
    /// Group norm whose parameters are `name.weight` and `name.bias`; `added` is film (n, 1, 1, 2c) and the second source, as far as
    /// `options` has them.
    pub fn group_norm(
        &mut self,
        name: &str,
        x: TensorId,
        options: GroupNormOptions,
        added: &[TensorId],
    ) -> Result<TensorId> {
        let second = added.last().filter(|_| options.joined);
        let c = self.shape(x).c + second.map_or(0, |&s| self.shape(s).c);
        let gamma = self.weight(&format!("{name}.weight"), Shape::vector(c));
        let beta = self.weight(&format!("{name}.bias"), Shape::vector(c));
        self.one(GroupNorm(options), name, &[&[x, gamma, beta], added].concat())
    }
}
