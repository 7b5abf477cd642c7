//! Posterior sampling with latent diffusion (Rout et al. 2023, eq. 6): DPS, and a pull of the code towards one that decoder and encoder
//! leave as it is.
//!
//! With the image xh = D(z0): L = || A(xh) - y || + gamma || E(xh + A^T (y - A(xh))) - z0 ||, E a sample of the encoder's
//! distribution; the gradient goes through network, decoder, operator, adjoint and encoder.

use super::chain::Sampler;
use super::dps;
use super::posterior::{Setup, column};
use super::single::{SingleStep, StepGraph};
use crate::error::{Error, Result};
use crate::graph::{Graph, adjoint};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::add::{Add, Scale};
use crate::ops::crop::ZeroPad;
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::norm::ResidualNorm;
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;

/// gamma
const CONSISTENCY: usize = column::OWN;

/// One step, one graph with its reverse.
pub fn step_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let Some(latent) = s.prior.latent else {
        return Err(Error::Invalid("psld needs a latent model: a pixel model has no codes".into()));
    };
    if !s.operator.is_linear() {
        return Err(Error::Invalid(format!("psld needs a linear operator, which {} is not", s.operator.task())));
    }
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let c = inputs.coefficients;
    let measurement = s.measurement(&mut g);
    let (z0, v) = s.estimate(&mut g, &inputs)?;

    // xi = xh + A^T (y - A(xh)), on the whole canvas.
    let xh = s.network.decode(&mut g, z0)?;
    let seen = s.measured(&mut g, xh, &measurement)?;
    let residual = g.one(ResidualNorm, "residual", &[seen, measurement.y])?;
    let missing = g.one(Add { scale: -1.0 }, "missing", &[measurement.y, seen])?;
    let back = match s.settings.published_transpose {
        false => adjoint(&mut g, seen, missing, xh)?,
        true => {
            let back = s.operator.published_transpose(&mut g, missing, s.image)?;
            let whole = g.shape(xh);
            if g.shape(back) == whole { back } else { g.one(ZeroPad { h: whole.h, w: whole.w }, "back", &[back])? }
        }
    };
    let xi = g.one(Add { scale: 1.0 }, "corrected", &[xh, back])?;

    // ze, the code of the corrected image.
    let moments = s.network.encode(&mut g, xi)?;
    let encoder_keys = g.input("encoder.keys", Shape::rows(s.image.n, KEY_WORDS));
    let noise = g.one(NormalNoise { shape: s.canvas() }, "encoder.noise", &[encoder_keys])?;
    let ze = g.one(DiagonalGaussian, "encoder.sample", &[moments, noise])?;
    let ze = g.one(Scale { scale: latent.scaling as f32 }, "encoder.scaled", &[ze])?;
    let distance = g.one(ResidualNorm, "consistency", &[ze, z0])?;

    let objective = g.combine("objective", c, &[(column::ONE, residual), (CONSISTENCY, distance)])?;
    let (sample, _, keys) = s.ancestral(&mut g, &inputs, z0, v)?;
    let gradient = s.gradient(&mut g, objective, &inputs)?;
    let next = s.descend(&mut g, &inputs, sample, gradient, objective)?;
    let noises = vec![(keys, Draw::Ancestral), (encoder_keys, Draw::Encoder)];
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises, next, residual: Some(residual) })
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let gamma = s.settings.consistency;
    Ok(Box::new(SingleStep::new(s, step_graph(s)?, |i| (dps::length(s, i), vec![gamma]))?))
}
