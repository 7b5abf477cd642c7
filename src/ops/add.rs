//! `out = a + scale * b`
//!
//! VJP: da = dout, db = scale * dout.

use super::prelude::*;
use crate::backend::cpu::parallel::map2;
use crate::graph::record::{Graph, TensorId};

/// `out = a + scale * b` for two tensors of one shape. Inputs: a, b.
#[derive(Debug, Clone)]
pub struct Add {
    /// Factor of the second input; -1 subtracts it.
    pub scale: f32,
}

/// `out = scale * x`: the gradient with respect to the second input of [`Add`]. Input: x.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The factor.
    pub scale: f32,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let dout = r.dout(0)?;
        if r.wants(0) {
            r.give(0, dout);
        }
        if r.wants(1) {
            let name = r.name();
            let db = if self.scale == 1.0 { dout } else { r.graph.one(Scale { scale: self.scale }, &name, &[dout])? };
            r.give(1, db);
        }
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        2 * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (a, b, s) = (launch.input_unless_in_place(0), launch.input_unless_in_place(1), self.scale);
        map2(launch.outputs[0], a, b, move |a, b| a + s * b);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (a, b, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let count = y.shape.numel();
        let params = kernels::AddParams { y: y.into(), a: a.into(), b: b.into(), count, scale: self.scale };
        r.each(kernels::ADD, count.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(self.clone(), &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, s) = (launch.input_unless_in_place(0), self.scale);
        crate::backend::cpu::parallel::map1(launch.outputs[0], x, move |x| s * x);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let params = kernels::ScaleParams { y: y.into(), x: x.into(), count, scale: self.scale };
        r.each(kernels::SCALE, count.div_ceil(4), 1, params);
        Ok(())
    }
}

impl Graph {
    /// `a + b`
    pub fn sum(&mut self, name: &str, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.one(Add { scale: 1.0 }, name, &[a, b])
    }
}
