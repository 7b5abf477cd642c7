//! Diffusion with a spherical Gaussian constraint (Yang et al. 2024, algorithm 1): the step is
//! turned towards the steepest descent on the sphere on which p(x_{t-1} | x_t) concentrates.
//!
//! g is the unit gradient at x_t, and s is the standard deviation of p(x_{t-1} | x_t). With r =
//! sqrt(numel) s, d* = -r g, d = sample - mean and m = d + zeta (d* - d), x_{t-1} = mean + r m /
//! ||m||. zeta is a share, so it needs no conversion between coordinates.

use crate::error::{Error, Result};
use crate::model::Prior;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::guidance::{Guidance, StepRule, parse_whiten};
use crate::sampler::method::{Conditioned, Method};
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::through::Through;
use std::sync::Arc;

/// Options of `dsg`.
#[derive(Clone, Copy, Debug)]
pub struct Dsg {
    /// zeta: share of the steepest descent in a step, from 0 to 1.
    pub share: f64,
    /// As [`Guidance::whiten`].
    pub whiten: Option<f64>,
    /// The networks through which the gradient flows.
    pub through: Through,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    let share = options.number("share", 0.2, 0.0..=1.0)?;
    Ok(Arc::new(Dsg { share, whiten: parse_whiten(options)?, through: Through::parse(options)? }))
}

impl Dsg {
    fn guidance(&self) -> Guidance {
        Guidance { step: StepRule::Polyak(self.share), whiten: self.whiten }
    }
}

impl Method for Dsg {
    fn method(&self) -> String {
        let whiten = self.whiten.map_or(String::new(), |w| format!(",whiten={w}"));
        format!("dsg:share={}{whiten}{}", self.share, self.through)
    }
    fn check(&self, _: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(Error::Invalid(format!("dsg: share is {}; it must be 0 to 1", self.share)));
        }
        self.guidance().check(operator)
    }
    fn conditioned(&self) -> Conditioned {
        self.through.conditioned()
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let zeta = self.share;
        phases.add("step", |s| {
            let x = s.x();
            let (estimate, guided) = self.through.estimates(s, x)?;
            let residual = s.residual(guided.x0, &self.guidance())?;
            let p = s.posterior(estimate)?;
            let gradient = s.gradient(residual, x)?;
            // mean + (1 - zeta) d, then a step of length zeta r down the gradient, then onto the
            // sphere.
            let [share, rest, one, minus] = [zeta, 1.0 - zeta, 1.0, -1.0].map(|v| s.constant(v));
            let length = s.scalar(move |m| zeta * m.level.radius);
            let shortened = s.combine("shortened", &[(rest, p.sample), (share, p.mean)])?;
            let down = s.combine("down", &[(one, shortened), (minus, gradient)])?;
            let turned = s.onto_sphere("turned", down, shortened, length)?;
            let radius = s.radius();
            let next = s.onto_sphere("projection", turned, p.mean, radius)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
}
