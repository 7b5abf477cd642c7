//! Priors whose posterior is known.
//!
//! All of the measurement that such a prior needs is its likelihood as a function of the clean
//! signal x: exp(-x^T P x / 2 + h^T x) up to a factor, with a precision P and an information h. A
//! measurement y = A x + n with noise of variance s^2 has P = A^T A / s^2 and h = A^T y / s^2. A
//! noisy signal x_t = sqrt(abar) x + sqrt(bbar) n has P = abar / bbar and h = sqrt(abar) / bbar
//! x_t. Both together have the sums. So one rule gives the posterior p(x | y), the denoiser
//! E[x | x_t] and the conditional denoiser E[x | x_t, y].

use super::linear::Symmetric;
use crate::noise::Stream;

/// A prior whose posterior can be computed, or drawn from without a bias that matters.
pub trait ExactPrior: Send + Sync + std::fmt::Debug {
    /// As it is typed.
    fn name(&self) -> String;

    /// Number of values of a signal.
    fn length(&self) -> usize;

    /// A draw of p(x).
    fn draw(&self, random: &mut Stream) -> Vec<f64>;

    /// log p(x). Of a prior with atoms, the density with respect to Lebesgue measure plus the
    /// atoms.
    fn log_density(&self, x: &[f64]) -> f64;

    /// The posterior under a likelihood of precision P, for any information. P is factorised once.
    fn under(&self, precision: &Symmetric) -> Box<dyn Conditional + '_>;

    /// True if means and covariances are computed by Markov chains, whose error falls with the
    /// number of sweeps; false if they are formulas.
    fn is_sampled(&self) -> bool;
}

/// Posteriors under likelihoods of one precision.
pub trait Conditional: Send + Sync {
    /// Mean and covariance under the likelihood of this information.
    fn moments(&self, information: &[f64], random: &mut Stream) -> Moments<'_>;

    /// `count` draws under the likelihood of this information.
    fn draws(&self, information: &[f64], count: usize, random: &mut Stream) -> Vec<Vec<f64>>;
}

/// A product with a matrix.
pub type Product<'a> = Box<dyn Fn(&[f64]) -> Vec<f64> + 'a>;

/// Mean and covariance of a posterior.
pub struct Moments<'a> {
    /// E[x | ...]
    pub mean: Vec<f64>,
    /// v -> Cov[x | ...] v
    pub covariance_times: Product<'a>,
}

/// The likelihood of x by x_t at this abar: (P, h / x_t).
pub fn of_noisy(alpha_bar: f64) -> (f64, f64) {
    let noise = 1.0 - alpha_bar;
    (alpha_bar / noise, alpha_bar.sqrt() / noise)
}

/// The score of p_t at x_t by Tweedie's formula: (sqrt(abar) x0 - x_t) / bbar, where x0 is E[x |
/// x_t] or, for the score of p_t(x_t | y), E[x | x_t, y].
pub fn score(x_t: &[f64], x0: &[f64], alpha_bar: f64) -> Vec<f64> {
    let (signal, noise) = (alpha_bar.sqrt(), 1.0 - alpha_bar);
    x_t.iter().zip(x0).map(|(x, x0)| (signal * x0 - x) / noise).collect()
}

/// eps = -sqrt(bbar) score, what a network of this prior would predict.
pub fn epsilon(x_t: &[f64], x0: &[f64], alpha_bar: f64) -> Vec<f64> {
    let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    x_t.iter().zip(x0).map(|(x, x0)| (x - signal * x0) / noise).collect()
}
