//! The two moves of DMAP's inner loop.
//!
//! step: `z' = z - length[n] g / ||g||` (z where g = 0); a step of stated length down the gradient.
//! projection: `z' = mean + radius[n] (z - mean) / ||z - mean||` (mean where they coincide): back onto the sphere
//! on which p(x_{t-1} | x_t) concentrates. Both move samples, nothing is differentiated through them.

use super::norm::{squared_distance, squared_norm};
use super::*;
use crate::backend::cpu::parallel::for_item_chunks;

const NOT_A_MODEL: &str = "sampler updates are not differentiated";

/// Inputs: z, g, lengths (n, 1, 1, any).
#[derive(Debug, Clone)]
pub struct NormalisedStep {
    /// Column of the lengths.
    pub column: usize,
}

/// Inputs: z, mean, radii (n, 1, 1, any).
#[derive(Debug, Clone)]
pub struct SphereProjection {
    /// Column of the radii.
    pub column: usize,
}

fn check(inputs: &[&Tensor], column: usize) -> Result<Vec<Output>, String> {
    expect_inputs(inputs, 3)?;
    let z = inputs[0].shape;
    expect_shape(inputs[1], z)?;
    expect_shape(inputs[2], Shape::rows(z.n, inputs[2].shape.c))?;
    if column >= inputs[2].shape.c {
        return Err(format!("column {column} of {} coefficients", inputs[2].shape.c));
    }
    Ok(vec![full("", z)])
}

impl Op for NormalisedStep {
    fn name(&self) -> &'static str {
        "normalised_step"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        check(inputs, self.column)
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..3, NOT_A_MODEL)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        4 * inputs[0].numel() as u64
    }
    fn launches(&self) -> usize {
        2
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (item, width) = (launch.input_shapes[0].item(), launch.input_shapes[2].c);
        let [z, g, lengths] = launch.inputs[..] else { unreachable!("three inputs") };
        let factors: Vec<f32> = (g.chunks(item).enumerate())
            .map(|(n, g)| {
                let norm = squared_norm(g).sqrt();
                if norm > 0.0 { (lengths[n * width + self.column] as f64 / norm) as f32 } else { 0.0 }
            })
            .collect();
        for_item_chunks(launch.outputs[0], item, |n, at, out| {
            let (z, g) = (&z[n * item + at..], &g[n * item + at..]);
            out.iter_mut().zip(z.iter().zip(g)).for_each(|(o, (z, g))| *o = z - factors[n] * g);
        });
    }
}

impl Op for SphereProjection {
    fn name(&self) -> &'static str {
        "sphere_projection"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        check(inputs, self.column)
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..3, NOT_A_MODEL)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        6 * inputs[0].numel() as u64
    }
    fn launches(&self) -> usize {
        2
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
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
}
