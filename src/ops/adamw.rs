//! One step of AdamW (Loshchilov and Hutter 2019) on a tensor.
//!
//! `m' = b1 m + (1 - b1) g`, `v' = b2 v + (1 - b2) g^2`,
//! `z' = (1 - rate decay) z - rate (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps)`,
//! with eps = 1e-8. A sampler update: it has no gradient.

use super::prelude::*;
use rayon::prelude::*;

/// Inputs: z, g, m, v of one shape, coefficients (n, 1, 1, any). Outputs: z', m', v'.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Columns of four coefficients: rate, rate times decay, 1 / (1 - b1^t), 1 / (1 - b2^t).
    pub columns: [usize; 4],
    /// b1 and b2.
    pub betas: [f64; 2],
}

/// b1 and b2 as usual.
pub const BETAS: [f64; 2] = [0.9, 0.999];
/// Added to the square root of v.
pub(super) const EPS: f32 = 1e-8;

/// Weights of the old and of the new value, in m and in v. The difference is taken in f64, because
/// 1 - 0.999 in f32 has a relative error of 1.3e-5.
pub(super) fn shares(betas: [f64; 2]) -> [(f32, f32); 2] {
    betas.map(|beta| (beta as f32, (1.0 - beta) as f32))
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 5)?;
        let z = inputs[0].shape;
        for other in &inputs[1..4] {
            expect_shape(other, z)?;
        }
        expect_shape(inputs[4], Shape::rows(z.n, inputs[4].shape.c))?;
        Ok(vec![single("", z), single("m", z), single("v", z)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..5, "sampler updates are not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        16 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, width) = (launch.input_shapes[0].item(), launch.input_shapes[4].c);
        let [z, g, m, v, coefficients] = launch.inputs[..] else { unreachable!("five inputs") };
        let [next, next_m, next_v] = &mut launch.outputs[..] else { unreachable!("three outputs") };
        let [of_m, of_v] = shares(self.betas);
        let all = next.par_iter_mut().zip(next_m.par_iter_mut().zip(next_v.par_iter_mut())).enumerate();
        all.with_min_len(4096).for_each(|(i, (next, (next_m, next_v)))| {
            let [rate, decay, by_m, by_v] = self.columns.map(|k| coefficients[i / item * width + k]);
            *next_m = of_m.0 * m[i] + of_m.1 * g[i];
            *next_v = of_v.0 * v[i] + of_v.1 * g[i] * g[i];
            *next = (1.0 - decay) * z[i] - rate * (*next_m * by_m) / ((*next_v * by_v).sqrt() + EPS);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [z, g, m, v, c] = r.inputs[..] else { unreachable!("five inputs") };
        let [next, next_m, next_v] = r.outputs[..] else { unreachable!("three outputs") };
        let (item, [rate, decay, by_m, by_v]) = (z.shape.item(), self.columns);
        let [(old_m, new_m), (old_v, new_v)] = shares(self.betas);
        let params = kernels::AdamWParams {
            next: next.into(),
            next_m: next_m.into(),
            next_v: next_v.into(),
            z: z.into(),
            g: g.into(),
            m: m.into(),
            v: v.into(),
            coefficients: c.into(),
            item,
            width: c.shape.c,
            rate,
            decay,
            by_m,
            by_v,
            old_m,
            new_m,
            old_v,
            new_v,
        };
        r.each(kernels::ADAMW, item, z.shape.n, params);
        Ok(())
    }
}
