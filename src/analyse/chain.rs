//! Sampling chains on a prior whose posterior is known, in f64, without a network.
//!
//! The denoiser E[x0 | x_t] and its Jacobian sqrt(abar) / bbar Cov[x0 | x_t] are those of the
//! prior, so what a chain gets wrong is its own.

use super::linear::{Symmetric, dot, norm};
use super::mixture::normals;
use super::operators::LinearOperator;
use super::prior::{Conditional, ExactPrior, Moments, of_noisy};
use super::problem::{Problem, Signal};
use crate::noise::Stream;
use crate::sampler::{Schedule, Variance};

/// A method of sampling p(x | y).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChainMethod {
    /// Draws of the posterior itself, without a chain of noise levels.
    Exact,
    /// Ancestral sampling with the exact score of p_t(x_t | y).
    Ancestral,
    /// Diffusion posterior sampling: ancestral sampling of the prior with variance beta_t, minus
    /// zeta times the gradient of || A(x0) - y ||. The rule of Zach et al., zeta' / sqrt(||r||^2 /
    /// 2) times the gradient of ||r||^2 / 2, is the same with zeta = sqrt(2) zeta'.
    Dps {
        /// The factor of the gradient.
        zeta: f64,
    },
    /// DMAP in the form of its paper: ancestral sampling of the prior, then at the next level `k`
    /// steps of -zeta abar times the gradient, each followed by the projection on the sphere around
    /// the posterior mean of the step. The factor abar converts zeta from sigma space, where the
    /// paper states it.
    Dmap {
        /// Ascent steps per level.
        k: usize,
        /// The factor of the gradient, in sigma space.
        zeta: f64,
    },
}

/// The noise levels of a problem's chains, with what they share between signals.
pub struct Levels<'a> {
    problem: &'a Problem,
    /// The schedule.
    pub schedule: Schedule,
    prior: Vec<Box<dyn Conditional + 'a>>,
    posterior: Vec<Box<dyn Conditional + 'a>>,
}

/// The denoiser at x_t and the guidance of a measurement.
pub struct Guided {
    /// E[x0 | x_t]
    pub x0: Vec<f64>,
    /// The gradient of || A(x0(x_t)) - y || with respect to x_t.
    pub gradient: Vec<f64>,
}

/// Denoiser and guidance from mean and covariance of p(x0 | x_t).
pub fn guided(moments: Moments<'_>, operator: &LinearOperator, y: &[f64], alpha_bar: f64) -> Guided {
    let x0 = moments.mean;
    let residual: Vec<f64> = operator.apply(&x0).iter().zip(y).map(|(a, y)| a - y).collect();
    // A residual of zero has no direction; the gradient there is taken as zero.
    let scale = alpha_bar.sqrt() / (1.0 - alpha_bar) / norm(&residual).max(f64::MIN_POSITIVE);
    let gradient = (moments.covariance_times)(&operator.adjoint(&residual)).into_iter().map(|g| scale * g).collect();
    Guided { x0, gradient }
}

impl<'a> Levels<'a> {
    /// The levels of this schedule with the prior of the chains.
    pub fn new(problem: &'a Problem, schedule: Schedule) -> Levels<'a> {
        Levels::of(problem, problem.prior.as_ref(), schedule)
    }

    /// The levels of this schedule with the prior of longer Markov chains.
    pub fn of_reference(problem: &'a Problem, schedule: Schedule) -> Levels<'a> {
        Levels::of(problem, problem.reference.as_ref(), schedule)
    }

    fn of(problem: &'a Problem, prior: &'a dyn ExactPrior, schedule: Schedule) -> Levels<'a> {
        let of_noise = |&bar: &f64| vec![of_noisy(bar).0; prior.length()];
        let alone = |bar: &f64| prior.under(&Symmetric::diagonal(&of_noise(bar)));
        let both = |bar: &f64| prior.under(&problem.precision().plus(&Symmetric::diagonal(&of_noise(bar))));
        Levels {
            problem,
            prior: schedule.alpha_bar.iter().map(alone).collect(),
            posterior: schedule.alpha_bar.iter().map(both).collect(),
            schedule,
        }
    }

    /// Mean and covariance of p(x0 | x_t) at level `i`.
    pub fn denoise(&self, i: usize, x_t: &[f64], random: &mut Stream) -> Moments<'_> {
        let scale = of_noisy(self.schedule.alpha_bar[i]).1;
        self.prior[i].moments(&x_t.iter().map(|x| scale * x).collect::<Vec<_>>(), random)
    }

    /// Mean and covariance of p(x0 | x_t, y) at level `i`.
    pub fn denoise_given(&self, i: usize, x_t: &[f64], signal: &Signal, random: &mut Stream) -> Moments<'_> {
        let scale = of_noisy(self.schedule.alpha_bar[i]).1;
        let both: Vec<f64> = x_t.iter().zip(&signal.information).map(|(x, h)| scale * x + h).collect();
        self.posterior[i].moments(&both, random)
    }

    /// The denoiser and the gradient of || A(x0(x_t)) - y || at level `i`.
    pub fn guide(&self, i: usize, x_t: &[f64], y: &[f64], random: &mut Stream) -> Guided {
        guided(self.denoise(i, x_t, random), &self.problem.operator, y, self.schedule.alpha_bar[i])
    }

    /// `count` samples of p(x | y) by a method; each has its own random numbers, of the task
    /// `purpose`.
    pub fn sample(&self, method: ChainMethod, index: u32, signal: &Signal, count: u32, purpose: u32) -> Vec<Vec<f64>> {
        if method == ChainMethod::Exact {
            let posterior = self.problem.reference.under(self.problem.precision());
            return posterior.draws(&signal.information, count as usize, &mut self.problem.random(index, purpose, 0));
        }
        (0..count).map(|m| self.chain(method, signal, &mut self.problem.random(index, purpose, m))).collect()
    }

    fn chain(&self, method: ChainMethod, signal: &Signal, random: &mut Stream) -> Vec<f64> {
        let s = &self.schedule;
        let mut x: Vec<f64> = normals(self.problem.prior.length(), random).iter().map(|n| s.start * n).collect();
        for i in (0..s.steps()).rev() {
            let noise = normals(x.len(), random);
            let (by_x0, by_x) = s.posterior_mean(i);
            let mean_of = |x0: &[f64]| -> Vec<f64> { x0.iter().zip(&x).map(|(x0, x)| by_x0 * x0 + by_x * x).collect() };
            x = match method {
                ChainMethod::Exact | ChainMethod::Ancestral => {
                    let mean = mean_of(&self.denoise_given(i, &x, signal, random).mean);
                    moved(&mean, s.posterior_sigma(i, Variance::FixedSmall), &noise)
                }
                ChainMethod::Dps { zeta } => {
                    let guided = self.guide(i, &x, &signal.y, random);
                    let next = moved(&mean_of(&guided.x0), s.posterior_sigma(i, Variance::FixedLarge), &noise);
                    moved(&next, -zeta, &guided.gradient)
                }
                ChainMethod::Dmap { k, zeta } => {
                    let mean = mean_of(&self.denoise(i, &x, random).mean);
                    let sigma = s.posterior_sigma(i, Variance::FixedSmall);
                    let mut next = moved(&mean, sigma, &noise);
                    // At the last step the posterior has no spread and there is nowhere to go.
                    for _ in 0..if i == 0 { 0 } else { k } {
                        let gradient = self.guide(i - 1, &next, &signal.y, random).gradient;
                        let down = moved(&next, -zeta * s.alpha_bar[i - 1], &gradient);
                        let away: Vec<f64> = down.iter().zip(&mean).map(|(d, m)| d - m).collect();
                        let radius = sigma * (x.len() as f64).sqrt();
                        next = moved(&mean, radius / dot(&away, &away).sqrt().max(f64::MIN_POSITIVE), &away);
                    }
                    next
                }
            };
        }
        x
    }
}

/// x + factor direction
fn moved(x: &[f64], factor: f64, direction: &[f64]) -> Vec<f64> {
    x.iter().zip(direction).map(|(x, d)| x + factor * d).collect()
}
