//! Laws of the increments of a signal, and the conditional draws of their latent variables.
//!
//! All but the Gauss law are scale mixtures: u | w ~ N(0, w) with a random variance w. Given u, 1/w
//! of the Laplace law is inverse Gaussian, and 1/w of Student's law is Gamma distributed.

use super::mixture::log_sum_exp;
use crate::error::{Error, Result};
use crate::noise::Stream;

/// Variance of an increment of the Gauss law.
pub const GAUSS_VARIANCE: f64 = 0.25;

/// Share of the increments of the Bernoulli-Laplace law that are not zero.
const SHARE: f64 = 0.1;

/// Smallest u^2 in the conditional law of a variance: at u = 0 that of Laplace is singular.
const SMALLEST_SQUARE: f64 = 1e-7;

/// A law of independent increments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// Normal with variance 0.25.
    Gauss,
    /// Density exp(-|u|) / 2.
    Laplace,
    /// Student's t with these degrees of freedom.
    Student(f64),
    /// Zero with probability 0.9, else Laplace.
    BernoulliLaplace,
}

impl Law {
    /// Its name as it is typed: `gauss`, `laplace`, `student:NU` or `bernoulli-laplace`. None if it
    /// is none of these; fails if the degrees of freedom are no number from 0.5 to 100.
    pub fn parse(name: &str) -> Result<Option<Law>> {
        Ok(Some(match name {
            "gauss" => Law::Gauss,
            "laplace" => Law::Laplace,
            "bernoulli-laplace" => Law::BernoulliLaplace,
            _ => {
                let Some(rest) = name.strip_prefix("student") else { return Ok(None) };
                let freedom = rest.strip_prefix(':').and_then(|nu| nu.parse::<f64>().ok());
                match freedom.filter(|nu| (0.5..=100.0).contains(nu)) {
                    Some(nu) => Law::Student(nu),
                    None if rest.is_empty() || rest.starts_with(':') => {
                        return Err(Error::Invalid(format!(
                            "prior {name}: write the degrees of freedom, a number from 0.5 to 100, as in student:3"
                        )));
                    }
                    None => return Ok(None),
                }
            }
        }))
    }

    /// As it is typed.
    pub fn name(self) -> String {
        match self {
            Law::Gauss => "gauss".into(),
            Law::Laplace => "laplace".into(),
            Law::Student(nu) => format!("student:{nu}"),
            Law::BernoulliLaplace => "bernoulli-laplace".into(),
        }
    }

    /// One increment.
    pub fn draw(self, random: &mut Stream) -> f64 {
        match self {
            Law::Gauss => GAUSS_VARIANCE.sqrt() * random.normal(),
            Law::Laplace => laplace(random),
            Law::Student(nu) => random.normal() / gamma(nu / 2.0, nu / 2.0, random).sqrt(),
            Law::BernoulliLaplace => {
                // Both numbers are drawn, so that the stream does not depend on the first.
                let (is_zero, value) = (random.uniform() >= SHARE, laplace(random));
                if is_zero { 0.0 } else { value }
            }
        }
    }

    /// log of the density; of the Bernoulli-Laplace law, log of the probability at 0.
    pub fn log_density(self, u: f64) -> f64 {
        match self {
            Law::Gauss => -0.5 * (u * u / GAUSS_VARIANCE + (std::f64::consts::TAU * GAUSS_VARIANCE).ln()),
            Law::Laplace => -u.abs() - 2f64.ln(),
            Law::Student(nu) => {
                let scale = libm::lgamma((nu + 1.0) / 2.0) - libm::lgamma(nu / 2.0);
                scale - 0.5 * (nu * std::f64::consts::PI).ln() - (nu + 1.0) / 2.0 * (u * u / nu).ln_1p()
            }
            Law::BernoulliLaplace if u == 0.0 => (1.0 - SHARE).ln(),
            Law::BernoulliLaplace => SHARE.ln() + Law::Laplace.log_density(u),
        }
    }

    /// A draw of the precision 1/w of an increment, given its value; for Bernoulli-Laplace given
    /// that it is not an atom.
    pub fn precision_given(self, u: f64, random: &mut Stream) -> f64 {
        match self {
            Law::Gauss => 1.0 / GAUSS_VARIANCE,
            Law::Student(nu) => gamma((nu + 1.0) / 2.0, (nu + u * u) / 2.0, random),
            // w is GIG(a = 1, b = u^2, p = 1/2); its reciprocal is inverse Gaussian.
            Law::Laplace | Law::BernoulliLaplace => {
                inverse_gaussian(1.0 / u.abs().max(SMALLEST_SQUARE.sqrt()), 1.0, random)
            }
        }
    }

    /// A draw of the variance w of a Laplace increment that was not seen: exponential with mean 2.
    pub fn unseen_variance(random: &mut Stream) -> f64 {
        -2.0 * random.uniform().ln()
    }

    /// log of the odds that an increment is not an atom, before the measurement.
    pub fn log_odds() -> f64 {
        (SHARE / (1.0 - SHARE)).ln()
    }
}

fn laplace(random: &mut Stream) -> f64 {
    let sign = if random.uniform() < 0.5 { -1.0 } else { 1.0 };
    -sign * random.uniform().ln()
}

/// A Gamma distributed number with this shape and rate (Marsaglia and Tsang 2000).
pub fn gamma(shape: f64, rate: f64, random: &mut Stream) -> f64 {
    if shape < 1.0 {
        let power = random.uniform().powf(1.0 / shape);
        return gamma(shape + 1.0, rate, random) * power;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let normal = random.normal();
        let v = (1.0 + c * normal).powi(3);
        if v > 0.0 && random.uniform().ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
            return d * v / rate;
        }
    }
}

/// An inverse Gaussian number with this mean and shape (Michael, Schucany and Haas 1976). The
/// smaller root is written without a difference, which cancels where mean / shape is large.
pub fn inverse_gaussian(mean: f64, shape: f64, random: &mut Stream) -> f64 {
    let normal = random.normal();
    let phi = mean * normal * normal / (2.0 * shape);
    let root = mean / (1.0 + phi + (2.0 * phi + phi * phi).sqrt());
    if random.uniform() * (mean + root) <= mean { root } else { mean * mean / root }
}

/// log of the density of the sum of a prior's increments: the signal starts at 0.
pub fn log_density(law: Law, x: &[f64]) -> f64 {
    increments(x).into_iter().map(|u| law.log_density(u)).sum()
}

/// u = D x: differences of neighbours; the first value itself.
pub fn increments(x: &[f64]) -> Vec<f64> {
    let mut before = 0.0;
    x.iter().map(|&x| x - std::mem::replace(&mut before, x)).collect()
}

/// D^-1 u: running sums.
pub fn running_sums(u: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    u.iter()
        .map(|u| {
            sum += u;
            sum
        })
        .collect()
}

/// The probability that an increment is not an atom, given its log-odds.
pub fn probability(log_odds: f64) -> f64 {
    (log_odds - log_sum_exp(&[0.0, log_odds])).exp()
}
