//! Noise schedules, and the numbers of each step that a sampler computes from them, in f64.
//!
//! VP notation: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. Step `i` of N goes from noise level
//! i to i - 1. Level 0 has the least noise; the level "before" it is the clean image (abar = 1).
//! The same step in VE ("sigma space") coordinates, z = x / sqrt(abar), sigma = sqrt((1 - abar) /
//! abar), is one Euler-ancestral step.

use crate::error::{Error, Result};
use crate::model::training_schedule::alpha_bars;
use crate::model::{NoiseSchedule, Prediction};

/// Variance of the noise of an ancestral step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Variance {
    /// The posterior variance beta~ of q(x_{t-1} | x_t, x_0).
    #[default]
    FixedSmall,
    /// beta; the last step, which gives the clean image, adds no noise.
    FixedLarge,
    /// Between beta~ and beta, as the model predicts (models that learned their variance).
    LearnedRange,
}

/// Which timesteps of the training schedule are visited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Spacing {
    /// Evenly spaced, as in guided-diffusion.
    Linear,
    /// Squares of evenly spaced numbers. More steps are taken at low noise, where the measurement
    /// determines the details.
    #[default]
    Quadratic,
    /// Evenly spaced from 0 to the last, not rounded; sigma is interpolated. This is `linspace` of
    /// diffusers' Euler ancestral scheduler.
    Linspace,
    /// Whole multiples of the stride, from 0: `leading` of diffusers.
    Leading,
    /// Whole multiples of the stride, down from the last: `trailing` of diffusers.
    Trailing,
}

/// A schedule respaced to some number of steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Timestep of the training schedule at each level, least noise first. Some spacings give
    /// fractions.
    pub timesteps: Vec<f64>,
    /// Product of (1 - beta) up to each level.
    pub alpha_bar: Vec<f64>,
    /// beta of the respaced chain.
    pub beta: Vec<f64>,
    /// Noise that a step adds, as a share of the posterior's standard deviation (Song et al. 2021):
    /// 1 is ancestral sampling, 0 is DDIM.
    pub eta: f64,
    /// Standard deviation of the noise that a chain starts from.
    pub start: f64,
}

/// `count` timesteps of `total`, evenly spaced from the first to the last (rounded).
pub fn spaced_timesteps(total: usize, count: usize) -> Vec<usize> {
    let stride = if count > 1 { (total - 1) as f64 / (count - 1) as f64 } else { 1.0 };
    // Halves round to even, as in Python's round, on which published samplers rely.
    (0..count).map(|i| (i as f64 * stride).round_ties_even() as usize).collect()
}

/// `count` timesteps of `total` whose square roots are evenly spaced, each at least one above the
/// one before.
pub fn quadratic_timesteps(total: usize, count: usize) -> Vec<usize> {
    let root = ((total - 1) as f64).sqrt();
    let mut next = 0;
    let mut steps: Vec<usize> = (0..count)
        .map(|i| {
            let t = (root * i as f64 / (count.max(2) - 1) as f64).powi(2).round() as usize;
            let t = t.max(next);
            next = t + 1;
            t
        })
        .collect();
    // If almost every timestep is visited, some now lie past the last one: these move back.
    for (i, t) in steps.iter_mut().enumerate() {
        *t = (*t).min(total - (count - i));
    }
    steps
}

/// Timestep i of `count` timesteps that are evenly spaced from 0 to the last.
fn linspace(total: usize, count: usize, i: usize) -> f64 {
    if count == 1 { (total - 1) as f64 } else { (total - 1) as f64 * i as f64 / (count - 1) as f64 }
}

/// abar at a fractional timestep, by linear interpolation of sigma.
fn alpha_bar_at(full: &[f64], t: f64) -> f64 {
    let sigma = |i: usize| ((1.0 - full[i]) / full[i]).sqrt();
    let (i, part) = (t as usize, t.fract());
    if part == 0.0 {
        return full[i];
    }
    let sigma = (1.0 - part) * sigma(i) + part * sigma(i + 1);
    1.0 / (1.0 + sigma * sigma)
}

/// Fails if the number of levels is not 1 to `total`.
pub(super) fn check_steps(steps: usize, total: usize) -> Result<()> {
    match (1..=total).contains(&steps) {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{steps} steps: choose 1 to {total}, the steps of the training schedule"))),
    }
}

/// `steps` sigmas that are evenly spaced in the logarithm, from the last level's `to` up to the
/// first level's `from`.
pub fn log_spaced(steps: usize, from: f64, to: f64) -> Vec<f64> {
    let ratio = |i: usize| if steps == 1 { 1.0 } else { i as f64 / (steps - 1) as f64 };
    (0..steps).map(|i| to * (from / to).powf(ratio(i))).collect()
}

/// `count` sigmas whose seventh roots are evenly spaced (Karras et al. 2022), from `to` up to
/// `from`.
pub fn power_spaced(count: usize, from: f64, to: f64) -> Vec<f64> {
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    let ratio = |i: usize| if count == 1 { 1.0 } else { i as f64 / (count - 1) as f64 };
    (0..count).map(|i| (root(to) + ratio(i) * (root(from) - root(to))).powi(7)).collect()
}

impl Schedule {
    /// The training schedule of `total` steps, respaced to `steps` steps. Fails if `steps` is not 1
    /// to `total`.
    pub fn new(training: NoiseSchedule, total: usize, steps: usize, spacing: Spacing) -> Result<Schedule> {
        check_steps(steps, total)?;
        let full = alpha_bars(&training.betas(total));
        let whole = |t: Vec<usize>| t.into_iter().map(|t| t as f64).collect::<Vec<f64>>();
        let stride = total as f64 / steps as f64;
        let timesteps = match spacing {
            Spacing::Linear => whole(spaced_timesteps(total, steps)),
            Spacing::Quadratic => whole(quadratic_timesteps(total, steps)),
            Spacing::Linspace => (0..steps).map(|i| linspace(total, steps, i)).collect(),
            Spacing::Leading => (0..steps).map(|i| (i * (total / steps)) as f64).collect(),
            Spacing::Trailing => (0..steps).map(|i| (stride * (i + 1) as f64).round_ties_even() - 1.0).collect(),
        };
        let alpha_bar: Vec<f64> = timesteps.iter().map(|&t| alpha_bar_at(&full, t)).collect();
        let beta = (0..steps).map(|i| 1.0 - alpha_bar[i] / if i == 0 { 1.0 } else { alpha_bar[i - 1] }).collect();
        // In sigma space diffusers starts from sigma_max n, with `leading` spacing from
        // sqrt(sigma_max^2 + 1) n. In VP coordinates the factor is sqrt(1 - abar) or 1.
        let start = match spacing {
            Spacing::Linspace | Spacing::Trailing => (1.0 - alpha_bar[steps - 1]).sqrt(),
            _ => 1.0,
        };
        Ok(Schedule { timesteps, alpha_bar, beta, eta: 1.0, start })
    }

    /// Noise levels at the given timesteps of the training schedule, for single evaluations (beta
    /// is NaN). Fails on a timestep outside the schedule.
    pub fn at(training: NoiseSchedule, total: usize, timesteps: Vec<f64>) -> Result<Schedule> {
        let full = Schedule::new(training, total, total, Spacing::Linear)?;
        if let Some(t) = timesteps.iter().find(|t| !(0.0..=(total - 1) as f64).contains(*t)) {
            return Err(Error::Invalid(format!("t is {t}; expected a number from 0 to {}", total - 1)));
        }
        let alpha_bar = timesteps.iter().map(|&t| alpha_bar_at(&full.alpha_bar, t)).collect();
        let beta = vec![f64::NAN; timesteps.len()];
        Ok(Schedule { timesteps, alpha_bar, beta, ..full })
    }

    /// Levels with these sigmas, the smallest first, limited to the largest of the training schedule.
    /// Fails if there are more levels than steps of training, or if the sigmas do not rise.
    pub fn of_sigmas(training: NoiseSchedule, total: usize, sigmas: &[f64]) -> Result<Schedule> {
        let full = Schedule::new(training, total, total, Spacing::Linear)?;
        check_steps(sigmas.len(), total)?;
        if !(sigmas[0] > 0.0 && sigmas.windows(2).all(|pair| pair[0] < pair[1])) {
            let (from, to) = (sigmas[sigmas.len() - 1], sigmas[0]);
            return Err(Error::Invalid(format!(
                "the levels' sigmas go from {from} to {to}; they have to fall to above 0"
            )));
        }
        let timesteps: Vec<f64> = sigmas.iter().map(|&sigma| full.timestep_of(sigma)).collect();
        // Below the smallest sigma of training, the model is asked at timestep 0.
        let alpha_bar = |(&t, &sigma): (&f64, &f64)| match sigma < full.sigma(0) {
            true => 1.0 / (1.0 + sigma * sigma),
            false => alpha_bar_at(&full.alpha_bar, t),
        };
        let alpha_bar: Vec<f64> = timesteps.iter().zip(sigmas).map(alpha_bar).collect();
        let before = |i: usize| if i == 0 { 1.0 } else { alpha_bar[i - 1] };
        let beta = (0..sigmas.len()).map(|i| 1.0 - alpha_bar[i] / before(i)).collect();
        // In VE coordinates x starts as sigma times normal noise.
        let start = (1.0 - alpha_bar[alpha_bar.len() - 1]).sqrt();
        Ok(Schedule { timesteps, alpha_bar, beta, start, ..full })
    }

    /// The fractional timestep of a full schedule with this sigma. Outside the schedule's range,
    /// the nearest end.
    fn timestep_of(&self, sigma: f64) -> f64 {
        let above = (0..self.steps()).position(|i| self.sigma(i) >= sigma);
        match above {
            None => (self.steps() - 1) as f64,
            Some(0) => 0.0,
            Some(i) => (i - 1) as f64 + (sigma - self.sigma(i - 1)) / (self.sigma(i) - self.sigma(i - 1)),
        }
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// abar of the level that step `i` leads to.
    pub fn alpha_bar_before(&self, i: usize) -> f64 {
        if i == 0 { 1.0 } else { self.alpha_bar[i - 1] }
    }

    /// sigma of level `i` in VE coordinates.
    pub fn sigma(&self, i: usize) -> f64 {
        ((1.0 - self.alpha_bar[i]) / self.alpha_bar[i]).sqrt()
    }

    /// x0 = a x + b output, where `output` is the network's prediction: (a, b).
    pub fn clean(&self, i: usize, prediction: Prediction) -> (f64, f64) {
        match prediction {
            Prediction::Epsilon => self.tweedie(i),
            Prediction::V => (self.alpha_bar[i].sqrt(), -(1.0 - self.alpha_bar[i]).sqrt()),
        }
    }

    /// x0 = a x + b eps (Tweedie): (a, b).
    pub fn tweedie(&self, i: usize) -> (f64, f64) {
        (self.alpha_bar[i].recip().sqrt(), -(self.alpha_bar[i].recip() - 1.0).sqrt())
    }

    /// Mean of q(x_{i-1} | x_i, x_0) = a x_0 + b x_i: (a, b). If eta is not 1, the mean of the DDIM
    /// step with this eta (Song et al. 2021, eq. 12).
    pub fn posterior_mean(&self, i: usize) -> (f64, f64) {
        let (bar, before, beta) = (self.alpha_bar[i], self.alpha_bar_before(i), self.beta[i]);
        if self.eta != 1.0 {
            // x_{i-1} = sqrt(before) x_0 + sqrt(1 - before - s^2) eps + s n with eps = (x_i -
            // sqrt(bar) x_0) / sqrt(1 - bar).
            let variance = self.eta.powi(2) * self.posterior_variance(i);
            let by_x = ((1.0 - before - variance).max(0.0) / (1.0 - bar)).sqrt();
            return (before.sqrt() - by_x * bar.sqrt(), by_x);
        }
        (beta * before.sqrt() / (1.0 - bar), (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - bar))
    }

    /// beta~: variance of q(x_{i-1} | x_i, x_0); 0 at the last step.
    pub fn posterior_variance(&self, i: usize) -> f64 {
        self.beta[i] * (1.0 - self.alpha_bar_before(i)) / (1.0 - self.alpha_bar[i])
    }

    /// log beta~. At the last step, where beta~ is 0, the value of the second to last step.
    pub fn posterior_log_variance_clipped(&self, i: usize) -> f64 {
        self.posterior_variance(if self.steps() > 1 { i.max(1) } else { i }).max(1e-20).ln()
    }

    /// Standard deviation of the noise that step `i` adds, if the variance is fixed. 0 at the last
    /// step.
    pub fn posterior_sigma(&self, i: usize, variance: Variance) -> f64 {
        if i == 0 {
            return 0.0;
        }
        match variance {
            Variance::FixedLarge => self.beta[i].sqrt(),
            Variance::FixedSmall | Variance::LearnedRange => self.eta * self.posterior_variance(i).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1e-3), "{a} is not {b}");
    }

    #[test]
    fn linear_betas_have_their_closed_form() {
        let b = NoiseSchedule::Linear.betas(1000);
        close(b[0], 1e-4);
        close(b[999], 0.02);
        close(b[500], 1e-4 + 0.0199 * 500.0 / 999.0);
        close(NoiseSchedule::Linear.betas(500)[499], 0.04);
    }

    #[test]
    fn scaled_linear_ends_at_the_known_sigmas() {
        let s = Schedule::new(NoiseSchedule::ScaledLinear, 1000, 1000, Spacing::Linear).unwrap();
        assert!((s.sigma(999) - 14.6146).abs() < 1e-3 && (s.sigma(0) - 0.029167).abs() < 1e-5);
    }

    #[test]
    fn cosine_follows_its_alpha_bar_until_the_limit() {
        let s = Schedule::new(NoiseSchedule::Cosine, 1000, 1000, Spacing::Linear).unwrap();
        let f = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        for i in [0, 10, 500, 900] {
            assert!((s.alpha_bar[i] / (f((i + 1) as f64 / 1000.0) / f(0.0)) - 1.0).abs() < 1e-9);
        }
        close(s.beta[999], 0.999);
    }

    #[test]
    fn respacing_keeps_alpha_bar_and_both_ends() {
        let (full, s) = (
            Schedule::new(NoiseSchedule::Linear, 1000, 1000, Spacing::Linear).unwrap(),
            Schedule::new(NoiseSchedule::Linear, 1000, 50, Spacing::Linear).unwrap(),
        );
        assert_eq!((s.timesteps[0], s.timesteps[49], s.timesteps[1]), (0.0, 999.0, 20.0));
        for (i, &t) in s.timesteps.iter().enumerate() {
            close(s.alpha_bar[i], full.alpha_bar[t as usize]);
        }
        assert!(
            Schedule::new(NoiseSchedule::Linear, 1000, 0, Spacing::Linear).is_err()
                && Schedule::new(NoiseSchedule::Linear, 1000, 1001, Spacing::Linear).is_err()
        );
        assert_eq!(spaced_timesteps(1000, 4), [0, 333, 666, 999]);
        assert_eq!(quadratic_timesteps(1000, 4), [0, 111, 444, 999]);
        for count in [1, 2, 20, 500, 999, 1000] {
            let q = quadratic_timesteps(1000, count);
            assert!(q.windows(2).all(|w| w[0] < w[1]) && q.len() == count && q[count - 1] < 1000);
        }
    }

    #[test]
    fn the_ancestral_step_is_the_euler_ancestral_step_of_sigma_space() {
        let s = Schedule::new(NoiseSchedule::Linear, 1000, 37, Spacing::Linear).unwrap();
        for i in 1..37 {
            let (from, to) = (s.sigma(i), s.sigma(i - 1));
            let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
            let (a, b) = s.posterior_mean(i);
            // x = sqrt(abar) z on both sides.
            let before = s.alpha_bar_before(i).sqrt();
            assert!((a / before - (1.0 - to * to / (from * from))).abs() < 1e-12);
            assert!((b * s.alpha_bar[i].sqrt() / before - to * to / (from * from)).abs() < 1e-12);
            assert!((s.posterior_sigma(i, Variance::FixedSmall) / before - up).abs() < 1e-12);
        }
    }

    #[test]
    fn the_last_step_gives_the_estimate_itself() {
        let s = Schedule::new(NoiseSchedule::Linear, 1000, 20, Spacing::Linear).unwrap();
        let (a, b) = s.posterior_mean(0);
        close(a, 1.0);
        close(b, 0.0);
        assert_eq!(s.posterior_sigma(0, Variance::FixedLarge), 0.0);
        close(s.posterior_log_variance_clipped(0), s.posterior_log_variance_clipped(1));
    }

    #[test]
    fn spacings_of_diffusers_have_their_timesteps() {
        let of = |spacing| Schedule::new(NoiseSchedule::ScaledLinear, 1000, 4, spacing).unwrap();
        assert_eq!(of(Spacing::Linspace).timesteps, [0.0, 333.0, 666.0, 999.0]);
        assert_eq!(
            Schedule::new(NoiseSchedule::ScaledLinear, 1000, 3, Spacing::Linspace).unwrap().timesteps,
            [0.0, 499.5, 999.0]
        );
        assert_eq!(of(Spacing::Leading).timesteps, [0.0, 250.0, 500.0, 750.0]);
        assert_eq!(of(Spacing::Trailing).timesteps, [249.0, 499.0, 749.0, 999.0]);
        let full = Schedule::new(NoiseSchedule::ScaledLinear, 1000, 1000, Spacing::Linear).unwrap();
        let half = Schedule::new(NoiseSchedule::ScaledLinear, 1000, 3, Spacing::Linspace).unwrap();
        close(half.sigma(1), 0.5 * (full.sigma(499) + full.sigma(500)));
    }

    #[test]
    fn log_spaced_levels_have_the_sigmas_that_were_asked_for() {
        let of = |sigmas: &[f64]| Schedule::of_sigmas(NoiseSchedule::Linear, 1000, sigmas);
        let s = of(&log_spaced(5, 1.6, 0.1)).unwrap();
        for (i, sigma) in [0.1, 0.2, 0.4, 0.8, 1.6].into_iter().enumerate() {
            assert!((s.sigma(i) / sigma - 1.0).abs() < 1e-9, "{}", s.sigma(i));
        }
        assert!(s.timesteps.windows(2).all(|t| t[0] < t[1]));
        let below = of(&log_spaced(3, 0.1, 0.001)).unwrap();
        assert!((below.sigma(0) / 0.001 - 1.0).abs() < 1e-9 && below.timesteps[0] == 0.0, "{below:?}");
        assert!(of(&log_spaced(5, 0.1, 1.6)).is_err());
        assert!(of(&log_spaced(1001, 1.6, 0.1)).is_err());
    }

    #[test]
    fn ddim_with_all_of_the_noise_is_the_ancestral_step() {
        let ancestral = Schedule::new(NoiseSchedule::Linear, 1000, 20, Spacing::Linear).unwrap();
        let nearly = Schedule { eta: 1.0 - 1e-15, ..ancestral.clone() };
        let ddim = Schedule { eta: 0.0, ..ancestral.clone() };
        for i in 0..20 {
            let (a, b) = (ancestral.posterior_mean(i), nearly.posterior_mean(i));
            assert!((a.0 - b.0).abs() < 1e-12 && (a.1 - b.1).abs() < 1e-12);
            // Without noise, a clean image and its own noise stay together: x_i = sqrt(bar) x_0 +
            // sqrt(1 - bar) eps.
            let (a, b) = ddim.posterior_mean(i);
            close(a + b * ddim.alpha_bar[i].sqrt(), ddim.alpha_bar_before(i).sqrt());
            assert!((b * (1.0 - ddim.alpha_bar[i]).sqrt() - (1.0 - ddim.alpha_bar_before(i)).sqrt()).abs() < 1e-12);
            assert_eq!(ddim.posterior_sigma(i, Variance::FixedSmall), 0.0);
        }
    }
}
