//! SITCOM (Alkhouri et al. 2025): at every noise level the network's input is optimised until its
//! estimate of x_0 explains the measurement. Then x is drawn around this estimate at the next lower
//! level.
//!
//! v starts as x_t. Adam takes at most K steps on || A(x0(v)) - y ||^2, until the residual norm is
//! at most 1.02 times the norm of the noise. Then x_{t-1} = sqrt(abar') x0(v) + sqrt(1 - abar') n.

use crate::error::{Error, Result};
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::ops::norm::SquaredNorm;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::Guidance;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use std::sync::Arc;

/// Options of `sitcom`.
#[derive(Clone, Copy, Debug)]
pub struct Sitcom {
    /// K: largest number of steps of an optimisation, at least 1.
    pub k: usize,
    /// Learning rate of Adam.
    pub rate: f64,
}

/// The optimisation of an item ends when its residual norm is at most this multiple of the norm of
/// its noise. It is (0.05 + 0.001) / 0.05, as published.
const ENOUGH: f32 = 1.02;

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Sitcom { k: options.count("k", 20, 1..=1000)?, rate: options.number("rate", 0.02, 1e-9..=1e3)? }))
}

impl Method for Sitcom {
    fn method(&self) -> String {
        format!("sitcom:k={},rate={}", self.k, self.rate)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, _: &Prior, _: &dyn Operator, _: &Schedule) -> Result<()> {
        match self.k > 0 && self.rate > 0.0 && self.rate.is_finite() {
            true => Ok(()),
            false => Err(Error::Invalid("sitcom: rate and k must be positive".into())),
        }
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let rate = self.rate;
        phases.add("begin", |s| {
            let (x, one) = (s.x(), s.constant(1.0));
            let v = s.combine("v", &[(one, x)])?;
            s.set("v", v);
            Ok(())
        })?;
        phases.add("optimise", |s| {
            let v = s.state("v");
            let x0 = s.estimate(v)?.x0;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            let loss = s.graph.one(SquaredNorm, "loss", &[residual])?;
            let gradient = s.gradient(loss, v)?;
            s.adamw(["v", "first moment", "second moment"], gradient, rate, 0.0)?;
            // A finished item keeps its last estimate while other items of the batch go on.
            let (fresh, kept) = (s.unless_frozen(1.0, 0.0), s.unless_frozen(0.0, 1.0));
            let (x0_before, residual_before) = (s.state("x0"), s.state_of("residual", s.graph.shape(residual), None));
            let x0 = s.combine("x0.kept", &[(fresh, x0), (kept, x0_before)])?;
            let residual = s.combine("residual.kept", &[(fresh, residual), (kept, residual_before)])?;
            s.set("x0", x0);
            s.set("residual", residual);
            s.output("residual", residual);
            s.report(residual);
            Ok(())
        })?;
        phases.add("step", |s| {
            let (x0, n) = (s.state("x0"), s.normal("noise", Draw::Ancestral)?);
            let by_x0 = s.scalar(|m| m.level.alpha_bar_before.sqrt());
            let by_n = s.scalar(|m| (1.0 - m.level.alpha_bar_before).sqrt());
            let next = s.combine("next", &[(by_x0, x0), (by_n, n)])?;
            s.set_x(next);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("begin")?;
        chain.clear("first moment")?;
        chain.clear("second moment")?;
        for _ in 0..self.k {
            chain.run("optimise")?;
            let residual = chain.read("optimise", "residual")?;
            if residual.is_some_and(|r| chain.freeze(&r, ENOUGH)) {
                break;
            }
        }
        chain.thaw();
        chain.run("step")
    }
    fn advice(&self) -> Option<&'static str> {
        Some("choose a smaller rate")
    }
}
