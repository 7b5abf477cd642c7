//! An inverse problem whose posterior is known: a prior, an operator and the variance of the noise.

use super::gibbs::Sweeps;
use super::increments::Increments;
use super::laws::Law;
use super::linear::{Symmetric, dot};
use super::mixture::{Mixture, normals};
use super::operators::{LENGTH, LinearOperator};
use super::prior::ExactPrior;
use crate::error::{Error, Result, nearest};
use crate::noise::{Draw, NoiseKey, Stream};

/// Name and description of every built-in prior with a known posterior.
pub const EXACT_PRIORS: [(&str, &str); 6] = [
    ("gaussian", "a stationary normal process of variance 1; its correlation falls to 1/e in 8 places"),
    ("mixture", "three normal processes: smooth around 1.5, rough around -1.5, wide around 0"),
    ("gauss", "increments are normal with variance 0.25"),
    ("laplace", "increments are Laplace distributed"),
    ("student", "increments have Student's t distribution: student:1, student:3"),
    ("bernoulli-laplace", "an increment is zero with probability 0.9, else Laplace distributed"),
];

/// Signals that determine the variance of the noise.
const VARIANCE_SIGNALS: u32 = 1000;

/// Sweeps of the reference over those of a chain's denoiser.
const REFERENCE_SWEEPS: usize = 10;

/// The built-in prior of this name for signals of `length` values. Its denoiser takes this many
/// sweeps where it is sampled. None if no built-in prior has this name; fails on a wrong option.
pub fn exact_prior(name: &str, length: usize, sweeps: usize) -> Result<Option<Box<dyn ExactPrior>>> {
    Ok(match name {
        "gaussian" => Some(Box::new(Mixture::gaussian(length))),
        "mixture" => Some(Box::new(Mixture::usual(length))),
        _ => Law::parse(name)?.map(|law| Box::new(Increments::new(law, length, Sweeps::of(sweeps))) as _),
    })
}

/// An error about a name that is neither a built-in prior nor `other`.
pub fn unknown_prior(name: &str, other: &[&str]) -> Error {
    let names = || EXACT_PRIORS.map(|p| if p.0 == "student" { "student:1" } else { p.0 });
    let meant = nearest(name, names().into_iter().chain(other.iter().copied())).unwrap_or_default();
    let known = names().into_iter().chain(other.iter().copied()).collect::<Vec<_>>().join(", ");
    Error::Invalid(format!(
        "unknown prior {name}: did you mean {meant}? Priors are {known}, or the file or folder of a model"
    ))
}

/// A prior, an operator and the noise of a measurement.
#[derive(Debug)]
pub struct Problem {
    /// The prior that chains use.
    pub prior: Box<dyn ExactPrior>,
    /// The same prior with longer Markov chains, for what chains are compared with.
    pub reference: Box<dyn ExactPrior>,
    /// The operator A.
    pub operator: LinearOperator,
    /// Variance of the noise in y.
    pub variance: f64,
    /// The user's seed.
    pub seed: u64,
    precision: Symmetric,
}

/// A signal and its measurement.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The true signal.
    pub x: Vec<f64>,
    /// y = A x + n
    pub y: Vec<f64>,
    /// A^T y / s^2, the information of y about x.
    pub information: Vec<f64>,
}

impl Problem {
    /// A built-in prior seen through an operator. The noise has the variance at which the median
    /// over 1000 signals of mean((A x)^2) is `decibels` above it. Fails on an unknown name.
    pub fn new(prior: &str, operator: &str, decibels: f64, sweeps: usize, seed: u64) -> Result<Problem> {
        let of = |sweeps| exact_prior(prior, LENGTH, sweeps)?.ok_or_else(|| unknown_prior(prior, &[]));
        let (prior, reference) = (of(sweeps)?, of(REFERENCE_SWEEPS * sweeps)?);
        let operator = LinearOperator::parse(operator)?;
        let power = |i| {
            let mut random = Stream::new(NoiseKey { seed, image: i, step: 1, draw: Draw::Signal });
            let seen = operator.apply(&prior.draw(&mut random));
            dot(&seen, &seen) / seen.len() as f64
        };
        let mut powers: Vec<f64> = (0..VARIANCE_SIGNALS).map(power).collect();
        powers.sort_by(f64::total_cmp);
        let middle = powers.len() / 2;
        let variance = 0.5 * (powers[middle - 1] + powers[middle]) / 10f64.powf(decibels / 10.0);
        if !(variance > 0.0 && variance.is_finite()) {
            return Err(Error::Invalid(format!("--snr {decibels} gives noise of variance {variance}; take 0 to 60")));
        }
        let precision = operator.gram().scaled(1.0 / variance);
        Ok(Problem { prior, reference, operator, variance, seed, precision })
    }

    /// Signal number `index` and its measurement.
    pub fn signal(&self, index: u32) -> Signal {
        let mut random = Stream::new(NoiseKey { seed: self.seed, image: index, step: 0, draw: Draw::Signal });
        let x = self.prior.draw(&mut random);
        let noise = normals(self.operator.measured(), &mut random);
        let y: Vec<f64> =
            self.operator.apply(&x).iter().zip(noise).map(|(a, n)| a + self.variance.sqrt() * n).collect();
        let information = self.operator.adjoint(&y).into_iter().map(|v| v / self.variance).collect();
        Signal { x, y, information }
    }

    /// A^T A / s^2, the precision of y about x.
    pub fn precision(&self) -> &Symmetric {
        &self.precision
    }

    /// log p(x, y) up to a number that does not depend on x.
    pub fn log_posterior(&self, x: &[f64], y: &[f64]) -> f64 {
        let seen = self.operator.apply(x);
        let error: f64 = seen.iter().zip(y).map(|(a, y)| (a - y).powi(2)).sum();
        self.prior.log_density(x) - 0.5 * error / self.variance
    }

    /// The random numbers of one chain or draw: `number` of the task `purpose` on signal `index`.
    pub fn random(&self, index: u32, purpose: u32, number: u32) -> Stream {
        let key = NoiseKey { seed: self.seed, image: index, step: purpose << 20 | number, draw: Draw::Analysis };
        Stream::new(key)
    }
}
