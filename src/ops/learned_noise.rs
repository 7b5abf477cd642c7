//! `y = mean + exp(logvar / 2) noise` with `logvar = f log beta + (1 - f) log beta~` and
//! `f = (v + 1) / 2` per pixel
//!
//! The ancestral step of a model with a learned variance ("learned range", Nichol and Dhariwal
//! 2021, eq. 15). A sampler update: it has no gradient.

use super::prelude::*;
use crate::backend::cpu::math::exp;
use crate::backend::cpu::parallel::for_item_chunks;

/// Inputs: mean, v, noise, coefficients (n, 1, 1, any).
#[derive(Debug, Clone)]
pub struct LearnedNoise {
    /// Columns of three coefficients: log beta, log beta~, and the factor of the noise (0 at the
    /// last step, else 1).
    pub columns: [usize; 3],
}

impl Op for LearnedNoise {
    fn name(&self) -> &'static str {
        "learned_noise"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        let mean = inputs[0].shape;
        expect_shape(inputs[1], mean)?;
        expect_shape(inputs[2], mean)?;
        expect_shape(inputs[3], Shape::rows(mean.n, inputs[3].shape.c))?;
        Ok(vec![single("", mean)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, "sampler updates are not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        16 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, width) = (launch.input_shapes[0].item(), launch.input_shapes[3].c);
        let [mean, v, noise, c] = launch.inputs[..] else { unreachable!("four inputs") };
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let [large, small, factor] = self.columns.map(|k| c[n * width + k]);
            let at = n * item + at;
            for (i, o) in out.iter_mut().enumerate() {
                let f = 0.5 * (v[at + i] + 1.0);
                *o = mean[at + i] + factor * exp(0.5 * (f * large + (1.0 - f) * small)) * noise[at + i];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [mean, v, noise, c] = r.inputs[..] else { unreachable!("four inputs") };
        let y = r.outputs[0];
        let item = y.shape.item();
        let [large, small, factor] = self.columns;
        let params = kernels::LearnedNoiseParams {
            y: y.into(),
            mean: mean.into(),
            v: v.into(),
            noise: noise.into(),
            coefficients: c.into(),
            item,
            width: c.shape.c,
            large,
            small,
            factor,
        };
        r.each(kernels::LEARNED_NOISE, item.div_ceil(4), y.shape.n, params);
        Ok(())
    }
}
