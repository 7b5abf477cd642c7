//! Plug-and-play restoration by half-quadratic splitting (Zhang et al. 2021, "DPIR"), with the diffusion model as the denoiser.
//!
//! The posterior's maximum is sought by two steps in turn while sigma falls evenly in the logarithm: x <- prox of the data term with
//! rho = lambda s^2 / sigma^2, the image nearest to x that explains the measurement; x <- E[x_0 | x + sigma n = x], the denoiser.
//! sigma is that of VE coordinates, in [-1, 1] units; no noise is added, so one run gives one image.

use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::Guidance;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `dpir`.
#[derive(Clone, Copy, Debug)]
pub struct Dpir {
    /// Weight of the prior.
    pub lambda: f64,
    /// First sigma.
    pub from: f64,
    /// Last sigma.
    pub to: f64,
    /// Conjugate gradients of a proximal step.
    pub cg: usize,
    /// n
    pub noise: f64,
    /// d
    pub draws: usize,
    /// f
    pub flips: usize,
}

fn flip(s: &mut crate::sampler::step::Step<'_>, x: crate::graph::TensorId, kind: usize) -> Result<crate::graph::TensorId> {
    use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
    let shape = s.graph.shape(x);
    let turn = |n: usize| Arc::new(Taps { rows: (0..n).map(|i| vec![(n - 1 - i, 1.0)]).collect(), inputs: n });
    let mut x = x;
    if kind & 1 == 1 { x = s.graph.one(AxisFilter { axis: Axis::Width, taps: turn(shape.w) }, "flip", &[x])?; }
    if kind & 2 == 2 { x = s.graph.one(AxisFilter { axis: Axis::Height, taps: turn(shape.h) }, "flip", &[x])?; }
    Ok(x)
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Dpir {
        lambda: options.number("lambda", 0.23, 1e-6..=1e6)?,
        from: options.number("from", 1.0, 1e-3..=100.0)?,
        to: options.number("to", 0.05, 1e-3..=100.0)?,
        cg: options.count("cg", 8, 1..=200)?,
        noise: options.number("noise", 0.0, 0.0..=2.0)?,
        draws: options.count("draws", 1, 1..=8)?,
        flips: options.count("flips", 0, 0..=1)?,
    }))
}

/// Fails where a method has no proximal step.
pub(super) fn check_proximal(method: &str, prior: &Prior, operator: &dyn Operator) -> Result<()> {
    if prior.latent.is_some() {
        let reason = "needs a pixel model, since the decoder of a latent model is not linear; dmap and dps work";
        return Err(Error::Invalid(format!("{method} {reason}")));
    }
    match operator.is_linear() {
        true => Ok(()),
        false => {
            let reason = format!("needs a linear operator, which {} is not; dmap and dps work", operator.task());
            Err(Error::Invalid(format!("{method} {reason}")))
        }
    }
}

impl Method for Dpir {
    fn method(&self) -> String {
        format!("dpir:lambda={},from={},to={},cg={},noise={},draws={},flips={}", self.lambda, self.from, self.to, self.cg, self.noise, self.draws, self.flips)
    }
    fn sigmas(&self) -> Option<(f64, f64)> {
        Some((self.from, self.to))
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        check_proximal("dpir", prior, operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let (lambda, cg, noise, draws, flips) = (self.lambda, self.cg, self.noise, self.draws, self.flips);
        phases.add("start", |s| {
            let (guess, one) = (s.guess(), s.constant(1.0));
            let x = s.mix("start", &[(one, guess)])?;
            s.set_x(x);
            Ok(())
        })?;
        phases.add("step", |s| {
            let x = s.x();
            let rho = s.scalar_of_noise(move |m, noise| lambda * (noise / m.level.sigma()).powi(2));
            let z = s.proximal(x, rho, cg)?;
            let shrink = s.scalar(|m| m.level.alpha_bar.sqrt());
            let amount = s.scalar(move |m| noise * (1.0 - m.level.alpha_bar).sqrt());
            let mut all = Vec::new();
            let share = s.constant(1.0 / draws as f64);
            for j in 0..draws {
                let n = s.normal("n", Draw::Estimate(j as u32))?;
                let mut x_t = s.mix("x_t", &[(shrink, z), (amount, n)])?;
                let kind = if flips > 0 { j % 4 } else { 0 };
                x_t = flip(s, x_t, kind)?;
                let x0 = s.estimate(x_t)?.x0;
                all.push((share, flip(s, x0, kind)?));
            }
            let mut x0 = s.mix("x0.a", &all[..all.len().min(4)])?;
            if all.len() > 4 { let b = s.mix("x0.b", &all[4..])?; let one = s.constant(1.0); x0 = s.mix("x0.c", &[(one, x0), (one, b)])?; }
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(x0);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        if chain.level.is_first() {
            chain.run("start")?;
        }
        chain.run("step")
    }
}
