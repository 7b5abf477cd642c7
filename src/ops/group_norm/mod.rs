//! Group normalisation with affine parameters, optional FiLM scale and shift, and optional SiLU in
//! one op. The input is one tensor, or two whose channels follow each other.
//!
//! `xhat = (x - mean_g) rstd_g`, `u = (gamma xhat + beta) (1 + scale) + shift`, `y = silu(u)` or
//! `y = u`.
//! VJP: du = dy silu'(u); p = du gamma (1 + scale); with averages over the group of item n,
//! dx = rstd (p - avg(p) - xhat avg(p xhat)): the second term comes from the mean, the third from
//! the standard deviation.
//! dscale = sum over pixels of du (gamma xhat + beta), dshift = sum over pixels of du.
//! dgamma = sum over items of (1 + scale) (sum over pixels of du xhat), dbeta likewise of du.
//! It reads x, mean, rstd and the parameters; y is not kept. It can add to an existing gradient.

mod cpu;
mod launch;
mod options;

pub use options::{GroupNormExtra, GroupNormInputs, GroupNormOptions};

use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use launch::CudaNorm;
pub(super) use launch::VARIANTS;

/// The normalisation. Its inputs are [`GroupNormInputs`]. Outputs: y, mean, rstd (n, 1, 1, groups).
#[derive(Debug, Clone)]
pub struct GroupNorm(pub GroupNormOptions);

/// Gradient with respect to x, and to `second` if there is one. Inputs: dy, x, mean, rstd, the
/// others of [`GroupNormInputs`], and optionally the addend if there is no `second`.
#[derive(Debug, Clone)]
pub struct GroupNormVjp {
    /// Options of the forward op.
    pub options: GroupNormOptions,
    /// The last input is the addend: the result is added to it.
    pub addend: bool,
}

/// Gradient with respect to film. Inputs as for [`GroupNormVjp`], without an addend.
#[derive(Debug, Clone)]
pub struct GroupNormFilmVjp(pub GroupNormOptions);

/// Gradients of gamma and beta, f32, of a norm of one tensor. Inputs as for [`GroupNormVjp`], then
/// optionally the two gradients that the results are added to.
#[derive(Debug, Clone)]
pub struct GroupNormWeightVjp {
    /// Options of the forward op.
    pub options: GroupNormOptions,
    /// The last two inputs are gradients that the results are added to.
    pub addends: bool,
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, self.0.count())?;
        let x = self.0.inputs(inputs[0], &inputs[1..]).check(self.0.groups)?;
        let statistics = Shape::rows(x.n, self.0.groups);
        Ok(vec![storage(x), single("mean", statistics), single("rstd", statistics)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (options, name, at) = (self.0, r.name(), self.0.places());
        let mut inputs = vec![r.dout(0)?, r.input(0), r.out(1), r.out(2)];
        inputs.extend(&r.node.inputs[1..]);
        if let Some(film) = at.film.filter(|&i| r.wants(i)) {
            let dfilm = r.graph.one(GroupNormFilmVjp(options), &name, &inputs)?;
            r.give(film, dfilm);
        }
        if r.wants(at.gamma) || r.wants(at.beta) {
            if options.second {
                r.not_differentiable([at.gamma, at.beta], "the parameters of a norm of two tensors are not trained")?;
            }
            let added = r.accumulate_both([at.gamma, at.beta]);
            let op = GroupNormWeightVjp { options, addends: !added.is_empty() };
            let both = r.graph.add(op, &name, &[&inputs[..], &added].concat())?;
            r.give(at.gamma, both[0]);
            r.give(at.beta, both[1]);
        }
        if let Some(second) = at.second.filter(|&i| r.wants(at.x) || r.wants(i)) {
            let both = r.graph.add(GroupNormVjp { options, addend: false }, &name, &inputs)?;
            r.give(at.x, both[0]);
            r.give(second, both[1]);
        } else if r.wants(at.x) {
            let sum = r.accumulate(at.x);
            inputs.extend(sum);
            let dx = r.graph.one(GroupNormVjp { options, addend: sum.is_some() }, &name, &inputs)?;
            r.give(at.x, dx);
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
        CudaNorm::forward(r, self.0).record(r)
    }
}

impl Op for GroupNormVjp {
    fn name(&self) -> &'static str {
        "group_norm_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        let options = self.options;
        if options.second && self.addend {
            return Err("a gradient by two tensors is not added to another".into());
        }
        expect_inputs(inputs, 3 + options.count() + usize::from(self.addend))?;
        let named = options.inputs(inputs[1], &inputs[4..]);
        let x = named.check(options.groups)?;
        expect_shape(inputs[0], x)?;
        if self.addend {
            expect_shape(inputs[inputs.len() - 1], x)?;
        }
        let mut outputs = vec![storage(inputs[1].shape)];
        if let Some(second) = named.second {
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
    fn in_place(&self) -> &'static [(usize, usize)] {
        // With two tensors, neither gradient has the shape of dy, so none can take its place.
        if self.options.second { &[] } else { &[(0, 0)] }
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        cpu::vjp(self.options, self.addend, launch);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaNorm::reverse(r, self.options, self.addend).record(r)
    }
}

impl Op for GroupNormFilmVjp {
    fn name(&self) -> &'static str {
        "group_norm_film_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3 + self.0.count())?;
        let named = self.0.inputs(inputs[1], &inputs[4..]);
        named.check(self.0.groups)?;
        let film = named.film.ok_or("a norm without film has no gradient by it")?;
        Ok(vec![storage(film.shape)])
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

impl Op for GroupNormWeightVjp {
    fn name(&self) -> &'static str {
        "group_norm_weight_vjp"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        let count = 3 + self.options.count();
        if self.options.second {
            return Err("a norm of two tensors has no gradient by its parameters".into());
        }
        expect_inputs(inputs, count + 2 * usize::from(self.addends))?;
        let x = self.options.inputs(inputs[1], &inputs[4..]).check(self.options.groups)?;
        expect_shape(inputs[0], x)?;
        let c = Shape::vector(x.c);
        inputs[count..].iter().try_for_each(|sum| expect_shape(sum, c))?;
        Ok(vec![single("dgamma", c), single("dbeta", c)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..r.node.inputs.len(), FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        18 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        // The addends follow all other inputs.
        if self.options.film { &[(7, 0), (8, 1)] } else { &[(6, 0), (7, 1)] }
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        cpu::weight_vjp(self.options, self.addends, launch);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        CudaNorm::reverse(r, self.options, false).record_weight(r, self.addends);
        Ok(())
    }
}

impl Graph {
    /// A group norm with parameters `name.weight` and `name.bias`, and the further inputs in
    /// `extra`.
    pub fn group_norm(
        &mut self,
        name: &str,
        x: TensorId,
        options: GroupNormOptions,
        extra: GroupNormExtra<TensorId>,
    ) -> Result<TensorId> {
        let GroupNormExtra { film, second } = extra;
        let c = self.shape(x).c + second.map_or(0, |s| self.shape(s).c);
        let [gamma, beta] = ["weight", "bias"].map(|part| self.weight(&format!("{name}.{part}"), Shape::vector(c)));
        let options = GroupNormOptions { film: film.is_some(), second: second.is_some(), ..options };
        self.one(GroupNorm(options), name, &GroupNormInputs { x, gamma, beta, film, second }.to_vec())
    }
}
