//! Decoupled annealing posterior sampling (Zhang et al. 2025, "DAPS", algorithm 1), with Langevin
//! dynamics or Hamiltonian Monte Carlo.
//!
//! At every level, in VE coordinates: 1. The probability-flow ODE leads from x_t to an estimate x0,
//! by Euler steps z <- (sigma' / sigma) z + (1 - sigma' / sigma) E[x_0 | z]. 2. K steps without the
//! network sample p(x_0 | x_t, y) near it: v <- momentum v + sqrt(rate) g + sqrt(2 (1 - momentum))
//! n, x <- x + sqrt(rate) v, where g = 2 A^T (y - A(x)) / tau^2 + (x0 - x) / sigma^2. With momentum
//! 0 this is Langevin dynamics. 3. x_{t-1} = x + sigma_{t-1} n.
//!
//! Over many levels the rate falls linearly to a hundredth, as in the published code. Its factor 2
//! in g makes the measurement's standard deviation tau / sqrt(2). The chain is stable if the rate
//! is below tau^2 for operators of norm 1.
//!
//! For latent models A includes the decoder, and the published code limits the gradient of ||y -
//! A(x)||^2 to [-1, 1]. It starts at sigma 10 there, with two steps of the ODE that end at 0.001:
//! `from=10,ode=2,end=0.001`.

use crate::error::Result;
use crate::noise::Draw;
use crate::ops::pointwise::Clamp;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::Guidance;
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::power_spaced;
use std::sync::Arc;

/// Options of `daps`.
#[derive(Clone, Copy, Debug)]
pub struct Daps {
    /// K: steps of the Markov chain per level.
    pub k: usize,
    /// Step size of the Markov chain at the first level.
    pub rate: f64,
    /// Euler steps of the ODE per level.
    pub ode: usize,
    /// Standard deviation that the Markov chain gives the measurement, in [-1, 1] units, times
    /// sqrt(2).
    pub tau: f64,
    /// sigma of the first level, in VE coordinates; at most the largest of the model's.
    pub from: f64,
    /// sigma that the ODE ends at, in the same units; below the last level's 0.1.
    pub end: f64,
    /// Momentum of Hamiltonian Monte Carlo, 0 to below 1. 0 is Langevin dynamics.
    pub momentum: f64,
}

/// Sigma of the last level, in VE coordinates.
const TO: f64 = 0.1;
/// Share of the rate that a run of infinitely many levels would end with.
const LEAST_RATE: f64 = 0.01;

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Daps {
        k: options.count("k", 100, 1..=10_000)?,
        rate: options.number("rate", 5e-5, 1e-12..=1.0)?,
        ode: options.count("ode", 5, 1..=100)?,
        tau: options.number("tau", 0.01, 1e-6..=1e3)?,
        from: options.number("from", 100.0, 0.2..=1e3)?,
        end: options.number("end", 0.01, 1e-4..=0.09)?,
        momentum: options.number("momentum", 0.0, 0.0..=0.999)?,
    }))
}

/// sigma of the level that the step leads to.
fn next_sigma(l: &Level) -> f64 {
    ((1.0 - l.alpha_bar_before) / l.alpha_bar_before).sqrt()
}

impl Daps {
    fn rate_at(&self, l: &Level) -> f64 {
        let done = (l.count - 1 - l.index) as f64 / (l.count + 1) as f64;
        self.rate * (1.0 + done * (LEAST_RATE - 1.0))
    }
}

impl Method for Daps {
    fn method(&self) -> String {
        let Daps { k, rate, ode, tau, from, end, momentum } = self;
        format!("daps:k={k},rate={rate},ode={ode},tau={tau},from={from},end={end},momentum={momentum}")
    }
    fn sigmas(&self, steps: usize, largest: f64) -> Option<Vec<f64>> {
        // The last of steps + 1 levels is the clean image.
        Some(power_spaced(steps + 1, self.from.min(largest), TO).split_off(1))
    }
    fn inner_sigmas(&self, sigma: f64) -> Vec<f64> {
        power_spaced(self.ode + 1, sigma, self.end)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let daps = *self;
        phases.add("begin", |s| {
            let (x, by_x) = (s.x(), s.scalar(|m| m.level.alpha_bar.sqrt().recip()));
            let z = s.combine("z", &[(by_x, x)])?;
            s.set("z", z);
            Ok(())
        })?;
        phases.add("ode", |s| {
            let (z, shrink) = (s.state("z"), s.scalar(|m| m.at.alpha_bar.sqrt()));
            let x = s.combine("x", &[(shrink, z)])?;
            let x0 = s.estimate(x)?.x0;
            let by_z = s.scalar(|m| next_sigma(&m.at) / m.at.sigma());
            let by_x0 = s.scalar(|m| 1.0 - next_sigma(&m.at) / m.at.sigma());
            let next = s.combine("z", &[(by_z, z), (by_x0, x0)])?;
            s.set("z", next);
            Ok(())
        })?;
        phases.add("start", |s| {
            let (z, one, v) = (s.state("z"), s.constant(1.0), s.normal("v", Draw::Estimate(0))?);
            let x0 = s.combine("x0", &[(one, z)])?;
            s.set("sample", x0);
            s.set("v", v);
            Ok(())
        })?;
        phases.add("sample", |s| {
            let (x, x0, v, n) = (s.state("sample"), s.state("z"), s.state("v"), s.normal("n", Draw::Ancestral)?);
            let mut error = s.back_projected_error(x)?;
            if s.setup.prior.latent.is_some() {
                // `error` is half of the gradient that is limited.
                error = s.graph.one(Clamp { low: -0.5, high: 0.5 }, "error.limited", &[error])?;
            }
            let step = move |l: &Level| daps.rate_at(l).sqrt();
            let (momentum, one) = (s.constant(daps.momentum), s.constant(1.0));
            let by_error = s.scalar(move |m| 2.0 * step(&m.level) / daps.tau.powi(2));
            let to_x0 = s.scalar(move |m| step(&m.level) / m.level.sigma().powi(2));
            let from_x = s.scalar(move |m| -step(&m.level) / m.level.sigma().powi(2));
            let by_n = s.constant((2.0 * (1.0 - daps.momentum)).sqrt());
            let kept = s.combine("kept", &[(momentum, v), (by_n, n)])?;
            let v = s.combine("v", &[(one, kept), (by_error, error), (to_x0, x0), (from_x, x)])?;
            let by_v = s.scalar(move |m| step(&m.level));
            let next = s.combine("x", &[(one, x), (by_v, v)])?;
            s.set("sample", next);
            s.set("v", v);
            Ok(())
        })?;
        phases.add("step", |s| {
            let (x0, n) = (s.state("sample"), s.normal("noise", Draw::Travel)?);
            let (by_x0, by_n) =
                (s.scalar(|m| m.level.alpha_bar_before.sqrt()), s.scalar(|m| (1.0 - m.level.alpha_bar_before).sqrt()));
            let next = s.combine("next", &[(by_x0, x0), (by_n, n)])?;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("begin")?;
        for j in (1..=self.ode).rev() {
            chain.run_inner("ode", j)?;
        }
        chain.run("start")?;
        for _ in 0..self.k {
            chain.run("sample")?;
        }
        chain.run("step")
    }
    fn advice(&self) -> Option<&'static str> {
        Some("choose a smaller rate or a larger tau")
    }
}
