//! Standard normal noise from a counter, by Philox4x32-10 and Box-Muller, with a key per batch item
//!
//! It reads no image, so it has no gradient.

use super::prelude::*;
use crate::noise::{KEY_WORDS, fill_normal};
use rayon::prelude::*;

/// Noise of a given shape. Input: keys (n, 1, 1, [`KEY_WORDS`]), bit patterns of
/// [`crate::noise::NoiseKey::to_words`].
#[derive(Debug, Clone)]
pub struct NormalNoise {
    /// Shape of the output.
    pub shape: Shape,
}

impl Op for NormalNoise {
    fn name(&self) -> &'static str {
        "normal_noise"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        expect_shape(inputs[0], Shape::rows(self.shape.n, KEY_WORDS))?;
        Ok(vec![single("", self.shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..1, "noise depends on its key only")
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        40 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        const CHUNK: usize = 1 << 14;
        let keys = launch.inputs[0];
        launch.outputs[0].par_chunks_mut(self.shape.item()).enumerate().for_each(|(n, item)| {
            let key: [u32; KEY_WORDS] = std::array::from_fn(|i| keys[n * KEY_WORDS + i].to_bits());
            item.par_chunks_mut(CHUNK).enumerate().for_each(|(k, out)| fill_normal(&key, k * CHUNK, out));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (keys, y) = (r.inputs[0], r.outputs[0]);
        let item = self.shape.item();
        let params = kernels::NormalNoiseParams { y: y.into(), keys: keys.into(), item };
        r.each(kernels::NORMAL_NOISE, item.div_ceil(4), self.shape.n, params);
        Ok(())
    }
}
