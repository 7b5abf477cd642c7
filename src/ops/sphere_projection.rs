//! Two updates of guided samplers: a step along the gradient, and a projection onto a sphere.
//!
//! step: `z' = z - min(length[n], max(0, r - floor[n]) / ||g||) g / ||g||`, where g is the gradient
//! of the residual norm r. This is Polyak's step with a maximum length: to first order it lowers r
//! to `floor`, the norm of the noise, and no further. The published form is `z' = z - zeta[n] g`.
//! projection: `z' = mean + radius[n] (z - mean) / ||z - mean||` (mean where z = mean): moves z
//! back to the sphere on which p(x_{t-1} | x_t) concentrates.
//! Both are sampler updates and have no gradient.

use super::norm::{record_squares, squared_distance, squared_norm};
use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

const NOT_A_MODEL: &str = "sampler updates are not differentiated";

/// A step along the gradient. Inputs: z, g of one shape, r (n, 1, 1, 1), coefficients
/// (n, 1, 1, any).
#[derive(Debug, Clone)]
pub struct GuidedStep {
    /// Coefficient column of the maximum length, or of zeta if not `normalised`.
    pub step: usize,
    /// Coefficient column of the floor.
    pub floor: usize,
    /// Uses Polyak's step; otherwise zeta times the gradient.
    pub normalised: bool,
}

/// The projection. Inputs: z, mean of one shape, radii (n, 1, 1, any).
#[derive(Debug, Clone)]
pub struct SphereProjection {
    /// Column of the radii.
    pub column: usize,
}

impl Op for GuidedStep {
    fn name(&self) -> &'static str {
        "guided_step"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 4)?;
        let z = inputs[0].shape;
        expect_shape(inputs[1], z)?;
        expect_shape(inputs[2], Shape::rows(z.n, 1))?;
        expect_coefficients(inputs[3], z.n, self.step.max(self.floor))?;
        Ok(vec![single("", z)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..4, NOT_A_MODEL)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        4 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, width) = (launch.input_shapes[0].item(), launch.input_shapes[3].c);
        let [z, g, residual, coefficients] = launch.inputs[..] else { unreachable!("four inputs") };
        let factors: Vec<f32> = (g.chunks(item).enumerate())
            .map(|(n, g)| {
                let (step, floor) = (coefficients[n * width + self.step], coefficients[n * width + self.floor]);
                if !self.normalised {
                    return step;
                }
                let norm = squared_norm(g).sqrt();
                let length = f64::from(step).min(f64::from(residual[n] - floor).max(0.0) / norm);
                if norm > 0.0 { (length / norm) as f32 } else { 0.0 }
            })
            .collect();
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let (z, g) = (&z[n * item + at..], &g[n * item + at..]);
            out.iter_mut().zip(z.iter().zip(g)).for_each(|(o, (z, g))| *o = z - factors[n] * g);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [z, g, residual, c] = r.inputs[..] else { unreachable!("four inputs") };
        let (out, item) = (r.outputs[0], z.shape.item());
        let partial = record_squares(r, g, None);
        let params = kernels::GuidedStepParams {
            out: out.into(),
            z: z.into(),
            g: g.into(),
            r: residual.into(),
            partial: partial.into(),
            coefficients: c.into(),
            item,
            width: c.shape.c,
            step: self.step,
            floor: self.floor,
            normalised: self.normalised.into(),
        };
        r.each(kernels::GUIDED_STEP, item.div_ceil(4), z.shape.n, params);
        Ok(())
    }
}

fn expect_coefficients(tensor: &Tensor, n: usize, column: usize) -> Result<(), String> {
    expect_shape(tensor, Shape::rows(n, tensor.shape.c))?;
    if column >= tensor.shape.c {
        return Err(format!("column {column} of {} coefficients", tensor.shape.c));
    }
    Ok(())
}

impl Op for SphereProjection {
    fn name(&self) -> &'static str {
        "sphere_projection"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 3)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        expect_coefficients(inputs[2], inputs[0].shape.n, self.column)?;
        Ok(vec![single("", inputs[0].shape)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..3, NOT_A_MODEL)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        6 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (item, width) = (launch.input_shapes[0].item(), launch.input_shapes[2].c);
        let [z, mean, radii] = launch.inputs[..] else { unreachable!("three inputs") };
        let factors: Vec<f32> = (z.chunks(item).zip(mean.chunks(item)).enumerate())
            .map(|(n, (z, mean))| {
                let norm = squared_distance(z, mean).sqrt();
                if norm > 0.0 { (radii[n * width + self.column] as f64 / norm) as f32 } else { 0.0 }
            })
            .collect();
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let (z, mean) = (&z[n * item + at..], &mean[n * item + at..]);
            out.iter_mut().zip(z.iter().zip(mean)).for_each(|(o, (z, m))| *o = m + factors[n] * (z - m));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [z, mean, c] = r.inputs[..] else { unreachable!("three inputs") };
        let (out, item) = (r.outputs[0], z.shape.item());
        let partial = record_squares(r, z, Some(mean));
        let params = kernels::SphereProjectionParams {
            out: out.into(),
            z: z.into(),
            mean: mean.into(),
            partial: partial.into(),
            coefficients: c.into(),
            item,
            width: c.shape.c,
            column: self.column,
        };
        r.each(kernels::SPHERE_PROJECTION, item.div_ceil(4), z.shape.n, params);
        Ok(())
    }
}
