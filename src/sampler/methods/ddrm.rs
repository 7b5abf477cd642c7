//! DDRM (Kawar et al. 2022, section 4): a step along each singular vector of A, as far as the noise
//! in the measurement allows.
//!
//! In VE coordinates x / sqrt(abar), with A = U S V^T, a coefficient V^T x0 of singular value s is
//! measured as ybar = U^T y / s with noise of standard deviation a = sigma_y / s. The step to the
//! next level sigma' sets it to
//!
//! ```text
//!     s = 0:       x0 + sqrt(1 - eta^2) sigma' eps + eta sigma' n
//!     sigma' < a:  x0 + sqrt(1 - eta^2) sigma' (ybar - x0) / a + eta sigma' n
//!     sigma' >= a: (1 - etab) x0 + etab ybar + sqrt(sigma'^2 - etab^2 a^2) n
//! ```
//!
//! where x0, eps and n stand for their coefficients. The first form is taken of the whole image.
//! The other two change a coefficient by a sum of eps, n and ybar - x0 = (V^T A^T (y - A x0)) /
//! s^2, so that U is not needed. A coefficient with s^2 up to 1e-6 counts as not measured.
//!
//! The chain starts from the third form at the first level, with x0 = 0 and etab = 1; a coefficient
//! whose a is larger than sigma is noise.
//!
//! V has to be exact. In the cosine transform a motion blur is only approximately diagonal, and
//! coefficients of small s amplify the error: the images were worse than the measurement. So
//! motion-blur is refused.

use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::model::Prior;
use crate::noise::Draw;
use crate::operator::Operator;
use crate::options::Options;
use crate::sampler::chain::Chain;
use crate::sampler::guidance::Guidance;
use crate::sampler::level::Level;
use crate::sampler::method::Method;
use crate::sampler::phases::Phases;
use crate::sampler::schedule::Schedule;
use crate::sampler::step::Step;
use crate::sampler::step::spectral::{SingularVectors, SpectralLevel};
use std::sync::Arc;

/// Options of `ddrm`.
#[derive(Clone, Copy, Debug)]
pub struct Ddrm {
    /// Share of fresh noise in coefficients that are not measured, or too noisily, 0 to 1.
    pub eta: f64,
    /// Share of the measurement in the others, 0 to 1.
    pub etab: f64,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Ddrm { eta: options.number("eta", 0.85, 0.0..=1.0)?, etab: options.number("etab", 1.0, 0.0..=1.0)? }))
}

impl Ddrm {
    /// The next x, at the level whose abar is `bar`, from the estimate x0, the noise eps in x, and
    /// fresh noise n.
    fn moved(
        self,
        s: &mut Step<'_>,
        v: &SingularVectors,
        [x0, eps, n]: [TensorId; 3],
        bar: fn(&Level) -> f64,
    ) -> Result<TensorId> {
        let Ddrm { eta, etab } = self;
        let level = SpectralLevel {
            sigma: s.scalar(move |m| ((1.0 - bar(&m.level)) / bar(&m.level)).sqrt()),
            noise: s.scalar_of_noise(|_, noise| noise),
            eta,
            etab,
        };
        let error = s.back_projected_error(x0)?;
        let change = s.spectral_change(v, error, eps, n, level)?;
        let by_x0 = s.scalar(move |m| bar(&m.level).sqrt());
        let by_eps = s.scalar(move |m| ((1.0 - eta * eta) * (1.0 - bar(&m.level))).sqrt());
        let by_n = s.scalar(move |m| eta * (1.0 - bar(&m.level)).sqrt());
        s.combine("next", &[(by_x0, x0), (by_eps, eps), (by_n, n), (by_x0, change)])
    }
}

impl Method for Ddrm {
    fn method(&self) -> String {
        format!("ddrm:eta={},etab={}", self.eta, self.etab)
    }
    fn reads_variance(&self) -> bool {
        false
    }
    fn check(&self, prior: &Prior, operator: &dyn Operator, _: &Schedule) -> Result<()> {
        let reason = match operator.singular_spectrum() {
            _ if prior.latent.is_some() => {
                "a pixel model, since the decoder of a latent model is not linear; dmap and dps work".to_string()
            }
            Some(_) => return Ok(()),
            None => format!(
                "the singular vectors of the operator, which {} does not give; dmap, dps and, where it is linear, dpir work",
                operator.task()
            ),
        };
        Err(Error::Invalid(format!("ddrm needs {reason}")))
    }
    fn record(&self, phases: &mut Phases<'_>) -> Result<()> {
        let v = SingularVectors::of(phases.setup)?;
        let start = phases.setup.schedule.start;
        phases.add("start", |s| {
            let x = s.x();
            let (whole, none) = (s.constant(start.recip()), s.constant(0.0));
            let n = s.combine("n", &[(whole, x)])?;
            let x0 = s.combine("x0", &[(none, x)])?;
            let next = Ddrm { eta: 1.0, etab: 1.0 }.moved(s, &v, [x0, n, n], |level| level.alpha_bar)?;
            s.set_x(next);
            Ok(())
        })?;
        phases.add("step", |s| {
            let x = s.x();
            let x0 = s.estimate(x)?.x0;
            let eps = s.noise_in(x, x0)?;
            let n = s.normal("noise", Draw::Ancestral)?;
            let next = self.moved(s, &v, [x0, eps, n], |level| level.alpha_bar_before)?;
            let residual = s.residual(x0, &Guidance::PLAIN)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })
    }
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        if chain.level.index + 1 == chain.level.count {
            chain.run("start")?;
        }
        chain.run("step")
    }
}
