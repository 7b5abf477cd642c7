//! An optimiser's step on a trained tensor: AdamW (Loshchilov and Hutter 2019) with the gradient
//! clipped by the norm of all gradients together.
//!
//! With `g' = g min(1, limit / (sqrt(squares) + 1e-6))`:
//! `m' = b1 m + (1 - b1) g'`, `v' = b2 v + (1 - b2) g'^2`,
//! `z' = (1 - rate decay) z - rate (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps)`, eps = 1e-8,
//! and the gradient becomes 0 for the next step to be added up in. While the coefficient `step` is 0
//! nothing changes: the gradients of further micro-batches are added first. Nor does anything but
//! the gradient change where `squares` is not finite. It has no gradient of its own.

use super::adamw::{EPS, shares};
use super::prelude::*;
use rayon::prelude::*;

/// Inputs: z, m, v, g of one shape, squares (1, 1, 1, 1), coefficients (1, 1, 1, 6): step (0 or 1),
/// rate, rate times decay, 1 / (1 - b1^t), 1 / (1 - b2^t), limit. Outputs: z', m', v', and g or 0.
/// Each may take the place of its input.
#[derive(Debug, Clone)]
pub struct AdamWStep {
    /// b1 and b2.
    pub betas: [f64; 2],
}

/// Number of coefficients of an [`AdamWStep`].
pub const COEFFICIENTS: usize = 6;
/// Added to the norm of all gradients, as PyTorch does.
pub const NORM_EPS: f32 = 1e-6;

impl Op for AdamWStep {
    fn name(&self) -> &'static str {
        "adamw_step"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 6)?;
        let z = inputs[0].shape;
        inputs[1..4].iter().try_for_each(|other| expect_shape(other, z))?;
        expect_shape(inputs[4], Shape::rows(1, 1))?;
        expect_shape(inputs[5], Shape::rows(1, COEFFICIENTS))?;
        Ok(vec![single("", z), single("m", z), single("v", z), single("g", z)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..6, "an optimiser's step is not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        18 * inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1), (2, 2), (3, 3)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        // What is not in its output already is copied there.
        for (input, output) in launch.inputs[..4].iter().zip(&mut launch.outputs) {
            if !input.is_empty() {
                output.copy_from_slice(input);
            }
        }
        let (squares, [step, rate, decay, by_m, by_v, limit]) = (launch.inputs[4][0], coefficients(launch.inputs[5]));
        if step == 0.0 {
            return;
        }
        let [z, m, v, g] = &mut launch.outputs[..] else { unreachable!("four outputs") };
        if !squares.is_finite() {
            g.fill(0.0);
            return;
        }
        let clip = (limit / (squares.sqrt() + NORM_EPS)).min(1.0);
        let [of_m, of_v] = shares(self.betas);
        let all = z.par_iter_mut().zip(m.par_iter_mut()).zip(v.par_iter_mut()).zip(g.par_iter_mut());
        all.with_min_len(4096).for_each(|(((z, m), v), g)| {
            let clipped = clip * *g;
            *m = of_m.0 * *m + of_m.1 * clipped;
            *v = of_v.0 * *v + of_v.1 * clipped * clipped;
            *z = (1.0 - decay) * *z - rate * (*m * by_m) / ((*v * by_v).sqrt() + EPS);
            *g = 0.0;
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [z, m, v, g, squares, coefficients] = r.inputs[..] else { unreachable!("six inputs") };
        let [next_z, next_m, next_v, next_g] = r.outputs[..] else { unreachable!("four outputs") };
        let ([(old_m, new_m), (old_v, new_v)], count) = (shares(self.betas), z.shape.numel());
        let params = kernels::AdamWStepParams {
            next_z: next_z.into(),
            next_m: next_m.into(),
            next_v: next_v.into(),
            next_g: next_g.into(),
            z: z.into(),
            m: m.into(),
            v: v.into(),
            g: g.into(),
            squares: squares.into(),
            coefficients: coefficients.into(),
            count,
            old_m,
            new_m,
            old_v,
            new_v,
        };
        r.each(kernels::ADAMW_STEP, count.div_ceil(4), 1, params);
        Ok(())
    }
}

fn coefficients(values: &[f32]) -> [f32; COEFFICIENTS] {
    std::array::from_fn(|k| values[k])
}
