//! Plug-and-play restoration by half-quadratic splitting (Zhang et al. 2021, "DPIR"), with the
//! diffusion model as the denoiser.
//!
//! Two steps alternate to find the maximum of the posterior, while log sigma falls evenly. The
//! proximal step z = prox(x) with rho = lambda s^2 / sigma^2 moves x towards the measurement; s is
//! the standard deviation of the noise in y. The denoising step is x = E[x_0 | x_t] with x_t =
//! sqrt(abar) z, as if the error of z were noise of this level. sigma is in VE coordinates of
//! images in [-1, 1].
//!
//! Two options are not in the paper. The model was trained on noisy images only: `noise` adds a
//! share of the level's noise to x_t, which makes the estimate sharper. `views` averages the
//! estimates for several mirror images of x_t.

use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::options::Options;
use crate::sampler::guidance::Guidance;
use crate::sampler::method::{Answer, Method, Start};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::{Schedule, log_spaced};
use crate::sampler::step::Step;
use std::sync::Arc;

/// Options of `dpir`.
#[derive(Clone, Copy, Debug)]
pub struct Dpir {
    /// Weight of the prior (the model) against the measurement.
    pub lambda: f64,
    /// sigma of the first step, in VE coordinates of images in [-1, 1].
    pub from: f64,
    /// sigma of the last step, in the same units; smaller than `from`.
    pub to: f64,
    /// Share of a level's noise that is added before the model sees the image, 0 to 1; 0 as
    /// published.
    pub noise: f64,
    /// Evaluations of the model per level, each on another mirror image: 1 (as published), 2 or 4.
    pub views: usize,
    /// Conjugate gradient steps of a proximal step, 1 to 200.
    pub cg: usize,
}

/// As published, for a noise of 0.025.
impl Default for Dpir {
    fn default() -> Dpir {
        Dpir { lambda: 0.23, from: 0.384, to: 0.05, noise: 0.0, views: 1, cg: 8 }
    }
}

/// What `dmap tune` searches.
pub(super) const SEARCH: &[(&str, &[&str])] = &[
    ("noise", &["0", "0.25", "0.5", "0.75", "1"]),
    ("lambda", &["0.05", "0.1", "0.23", "0.5", "1", "2"]),
    ("to", &["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]),
    ("from", &["0.2", "0.384", "0.7", "1", "2"]),
    ("views", &["1", "2", "4"]),
];

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let usual = Dpir::default();
    Ok(Arc::new(Dpir {
        lambda: options.number("lambda", usual.lambda, 1e-6..=1e6)?,
        from: options.number("from", usual.from, 1e-3..=100.0)?,
        to: options.number("to", usual.to, 1e-3..=100.0)?,
        noise: options.number("noise", usual.noise, 0.0..=1.0)?,
        views: [1, 2, 4][options.choice("views", &["1", "2", "4"])?],
        cg: options.count("cg", usual.cg, 1..=200)?,
    }))
}

/// Fails for latent models and for operators that are not linear: a proximal step works with
/// neither.
pub(super) fn check_proximal(method: &str, prior: &Prior, operator: &dyn Operator) -> Result<()> {
    let reason = match prior.latent {
        Some(_) => "needs a pixel model, since the decoder of a latent model is not linear".to_string(),
        None if operator.is_linear() => return Ok(()),
        None => format!("needs a linear operator, which {} is not", operator.task()),
    };
    Err(Error::Invalid(format!("{method} {reason}; dmap and dps work")))
}

/// Mirror image number `view`: 0 as it is, 1 left to right, 2 upside down, 3 both. Each is its own
/// inverse.
fn mirrored(s: &mut Step<'_>, mut x: TensorId, view: usize) -> Result<TensorId> {
    let shape = s.graph.shape(x);
    for (bit, axis, n) in [(1, Axis::Width, shape.w), (2, Axis::Height, shape.h)] {
        if view & bit != 0 {
            let taps = Taps { rows: (0..n).map(|i| vec![(n - 1 - i, 1.0)]).collect(), inputs: n };
            x = s.graph.one(AxisFilter { axis, taps: Arc::new(taps) }, "mirror", &[x])?;
        }
    }
    Ok(x)
}

impl Dpir {
    /// E[x_0 | x_t] of one mirror image, with x_t = sqrt(abar) z plus a share of the level's noise.
    fn denoised(&self, s: &mut Step<'_>, z: TensorId, view: usize) -> Result<TensorId> {
        let (shrink, share) = (s.scalar(|m| m.level.alpha_bar.sqrt()), self.noise);
        let mut x_t = s.combine("x_t", &[(shrink, z)])?;
        if share > 0.0 {
            let (one, amount) = (s.constant(1.0), s.scalar(move |m| share * (1.0 - m.level.alpha_bar).sqrt()));
            let n = s.normal("n", Draw::Estimate(view as u32))?;
            x_t = s.combine("x_t.noisy", &[(one, x_t), (amount, n)])?;
        }
        let x_t = mirrored(s, x_t, view)?;
        let x0 = s.estimate(x_t)?.x0;
        mirrored(s, x0, view)
    }
}

impl Method for Dpir {
    fn method(&self) -> String {
        let Dpir { lambda, from, to, noise, views, cg } = self;
        format!("dpir:lambda={lambda},from={from},to={to},noise={noise},views={views},cg={cg}")
    }
    fn answer(&self) -> Answer {
        Answer::Map
    }
    fn start(&self) -> Start {
        Start::Baseline
    }
    fn most_levels(&self) -> Option<usize> {
        // Measured with 8 to 64 levels (README, "Results"): more levels denoise too much. From a
        // larger sigma, missing regions are drawn, and up to 128 levels restore more.
        Some(if self.from < 1.0 { 16 } else { 128 })
    }
    fn sigmas(&self, steps: usize, _: f64) -> Option<Vec<f64>> {
        Some(log_spaced(steps, self.from, self.to))
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if self.from <= self.to {
            let Dpir { from, to, .. } = self;
            return Err(Error::Invalid(format!("dpir: sigma goes from={from} to={to}; it has to fall")));
        }
        check_proximal("dpir", prior, operator)
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let (lambda, cg, views) = (self.lambda, self.cg, self.views);
        phases.add("step", |s| {
            let x = s.x();
            let rho = s.scalar_of_noise(move |m, noise| lambda * (noise / m.level.sigma()).powi(2));
            let z = s.proximal(x, rho, cg)?;
            let share = s.constant(1.0 / views as f64);
            let estimates = (0..views).map(|view| Ok((share, self.denoised(s, z, view)?)));
            let estimates = estimates.collect::<Result<Vec<_>>>()?;
            let x0 = s.combine("x0.mean", &estimates)?;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(x0);
            Ok(())
        })
    }
}
