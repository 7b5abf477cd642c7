//! The change of the coefficients that a measurement determines, in a spectral step of DDRM.
//!
//! `c = by_z z + by_eps eps + by_n n` per coefficient of singular value s, with the standard
//! deviations sigma of the level and sigma_y of the noise in the measurement, and with r =
//! sqrt(1 - eta^2), by_eps = -r sigma:
//!
//! where s sigma < sigma_y: by_z = r sigma / (s sigma_y), by_n = 0;
//! elsewhere: by_z = etab / s^2, by_n = sqrt(sigma^2 - (etab sigma_y / s)^2) - eta sigma.
//!
//! c is 0 where s^2 is at most 1e-6: there the measurement says nothing. z is the transform of
//! A^T (y - A x0), which is s^2 times what the measurement adds to x0. `sampler/methods/ddrm.rs`
//! has the derivation. A sampler update: it has no gradient.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// Inputs: z, eps, n of one shape (n, h, w, c), power s^2 (n, h, w, 1), coefficients (n, 1, 1,
/// any). Output: c.
#[derive(Debug, Clone)]
pub struct SpectralStep {
    /// Columns of two coefficients: sigma and sigma_y. sigma_y is above 0.
    pub columns: [usize; 2],
    /// Share of fresh noise where the measurement is too noisy, 0 to 1.
    pub eta: f32,
    /// Share of the measurement elsewhere, 0 to 1.
    pub etab: f32,
}

/// Largest power that counts as 0.
const NOTHING: f32 = 1e-6;

impl Op for SpectralStep {
    fn name(&self) -> &'static str {
        "spectral_step"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 5)?;
        let z = inputs[0].shape;
        expect_shape(inputs[1], z)?;
        expect_shape(inputs[2], z)?;
        expect_shape(inputs[3], Shape { c: 1, ..z })?;
        expect_shape(inputs[4], Shape::rows(z.n, inputs[4].shape.c))?;
        if let Some(k) = self.columns.iter().find(|&&k| k >= inputs[4].shape.c) {
            return Err(format!("column {k} of {} coefficients", inputs[4].shape.c));
        }
        Ok(vec![single("", z)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..5, "sampler updates are not differentiated")
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        16 * inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (shape, width) = (launch.input_shapes[0], launch.input_shapes[4].c);
        let [z, eps, n, power, coefficients] = launch.inputs[..] else { unreachable!("five inputs") };
        let (eta, etab) = (self.eta, self.etab);
        for_item_chunks(launch.outputs[0], shape.item(), |item, at, out| {
            let [sigma, noise] = self.columns.map(|k| coefficients[item * width + k]);
            let kept = (1.0 - eta * eta).sqrt() * sigma;
            let at = item * shape.item() + at;
            for (i, o) in (at..).zip(out) {
                let power = power[i / shape.c];
                if power <= NOTHING {
                    *o = 0.0;
                    continue;
                }
                let s = power.sqrt();
                let (by_z, by_n) = if s * sigma < noise {
                    (kept / (s * noise), 0.0)
                } else {
                    let told = etab * noise / s;
                    (etab / power, (sigma * sigma - told * told).max(0.0).sqrt() - eta * sigma)
                };
                *o = by_z * z[i] - kept * eps[i] + by_n * n[i];
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let [z, eps, n, power, coefficients] = r.inputs[..] else { unreachable!("five inputs") };
        let (c, [sigma, noise]) = (r.outputs[0], self.columns);
        let item = z.shape.item();
        let params = kernels::SpectralStepParams {
            c: c.into(),
            z: z.into(),
            eps: eps.into(),
            n: n.into(),
            power: power.into(),
            coefficients: coefficients.into(),
            item,
            channels: z.shape.c,
            width: coefficients.shape.c,
            sigma,
            noise,
            eta: self.eta,
            etab: self.etab,
        };
        r.each(kernels::SPECTRAL_STEP, item, z.shape.n, params);
        Ok(())
    }
}
