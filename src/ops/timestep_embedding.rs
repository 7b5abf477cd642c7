//! Sinusoidal embedding `[cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) .. sin(t f_{h-1})]` with
//! `f_i = exp(-ln(10000) i / h)`, h = channels / 2
//!
//! The timestep comes from the noise schedule and not from the image: it has no gradient.

use super::prelude::*;

/// Sinusoidal embedding. Input: t (n, 1, 1, 1), fractional values allowed. Output
/// (n, 1, 1, channels).
#[derive(Debug, Clone)]
pub struct TimestepEmbedding {
    /// Number of output channels; even.
    pub channels: usize,
}

impl Op for TimestepEmbedding {
    fn name(&self) -> &'static str {
        "timestep_embedding"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let n = inputs[0].shape.n;
        expect_shape(inputs[0], Shape::rows(n, 1))?;
        if self.channels % 2 != 0 {
            return Err(format!("{} channels, expected an even number", self.channels));
        }
        Ok(vec![single("", Shape::rows(n, self.channels))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..1, "the timestep is not a variable of the image")
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        4 * outputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let half = self.channels / 2;
        for (row, &t) in launch.outputs[0].chunks_mut(self.channels).zip(launch.inputs[0]) {
            for i in 0..half {
                let angle = t * (-(10000f32.ln()) * i as f32 / half as f32).exp();
                row[i] = angle.cos();
                row[half + i] = angle.sin();
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (t, y) = (r.inputs[0], r.outputs[0]);
        let params = kernels::TimestepEmbeddingParams { y: y.into(), t: t.into(), channels: self.channels };
        r.launch(kernels::TIMESTEP_EMBEDDING, [t.shape.n, 1, 1], 256, 0, params);
        Ok(())
    }
}
