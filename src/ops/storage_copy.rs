//! A copy of an f32 tensor in the storage type of the run: what nodes read of a trained weight. The
//! weight itself stays in f32, because an optimiser's steps are smaller than a rounding of the
//! copy.
//!
//! VJP: dx = dy, in the type of dy.

use super::prelude::*;
use crate::backend::cpu::parallel::map1;

/// The copy. Input: x, f32.
#[derive(Debug, Clone)]
pub struct StorageCopy;

impl Op for StorageCopy {
    fn name(&self) -> &'static str {
        "storage_copy"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![storage(inputs[0].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let dout = r.dout(0)?;
        r.give(0, dout);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        map1(launch.outputs[0], Some(launch.inputs[0]), |x| x);
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let params = kernels::StorageCopyParams { y: y.into(), x: x.into(), count };
        r.each(kernels::STORAGE_COPY, count.div_ceil(4), 1, params);
        Ok(())
    }
}
