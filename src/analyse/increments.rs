//! Signals whose increments are independent and of one law: x_i = u_1 + ... + u_i.

use super::gibbs::{Gibbs, Sweeps};
use super::laws::{self, GAUSS_VARIANCE, Law, running_sums};
use super::linear::{Symmetric, dot};
use super::mixture::{Component, Mixture};
use super::prior::{Conditional, ExactPrior, Moments};
use crate::noise::Stream;

/// Sweeps between two draws of a posterior, so that they are nearly independent.
const SPACING: usize = 10;

/// Signals of independent increments of one law.
#[derive(Clone, Debug)]
pub struct Increments {
    law: Law,
    length: usize,
    sweeps: Sweeps,
    /// The same prior for the Gauss law, whose posterior is a formula.
    normal: Option<Mixture>,
}

impl Increments {
    /// Signals of `length` values; means and covariances take this many sweeps, if any.
    pub fn new(law: Law, length: usize, sweeps: Sweeps) -> Increments {
        let normal = (law == Law::Gauss).then(|| {
            let tau = 1.0 / GAUSS_VARIANCE;
            let precision = Symmetric::new(length, |i, j| match i - j {
                0 if i + 1 == length => tau,
                0 => 2.0 * tau,
                1 => -tau,
                _ => 0.0,
            });
            let component = Component::new(1.0, vec![0.0; length], precision);
            Mixture::new("gauss", component.into_iter().collect()).expect("a positive definite precision")
        });
        Increments { law, length, sweeps, normal }
    }
}

impl ExactPrior for Increments {
    fn name(&self) -> String {
        self.law.name()
    }

    fn length(&self) -> usize {
        self.length
    }

    fn draw(&self, random: &mut Stream) -> Vec<f64> {
        running_sums(&(0..self.length).map(|_| self.law.draw(random)).collect::<Vec<_>>())
    }

    fn log_density(&self, x: &[f64]) -> f64 {
        laws::log_density(self.law, x)
    }

    fn under(&self, precision: &Symmetric) -> Box<dyn Conditional + '_> {
        match &self.normal {
            Some(normal) => normal.under(precision),
            None => Box::new(Sampled { gibbs: Gibbs::new(self.law, precision), sweeps: self.sweeps }),
        }
    }

    fn is_sampled(&self) -> bool {
        self.normal.is_none()
    }
}

/// Posteriors by Gibbs sampling.
struct Sampled {
    gibbs: Gibbs,
    sweeps: Sweeps,
}

impl Conditional for Sampled {
    fn moments(&self, information: &[f64], random: &mut Stream) -> Moments<'_> {
        let visited = self.gibbs.run(information, self.sweeps, random);
        // Cov[x] is the mean of Cov[x | w] plus the covariance of E[x | w]: both are known sweep by
        // sweep where the factors are kept, which leaves less to chance than the draws do.
        let (within, points) = match visited.factors.is_empty() {
            true => (Vec::new(), visited.draws),
            false => (visited.factors, visited.centres),
        };
        let count = points.len() as f64;
        let mut centre = vec![0.0; visited.mean.len()];
        for point in &points {
            centre.iter_mut().zip(point).for_each(|(c, x)| *c += x / count);
        }
        let covariance_times = move |v: &[f64]| {
            let mut product = vec![0.0; v.len()];
            for point in &points {
                let distance: Vec<f64> = point.iter().zip(&centre).map(|(x, c)| x - c).collect();
                let share = dot(&distance, v) / (count - 1.0);
                product.iter_mut().zip(&distance).for_each(|(p, d)| *p += share * d);
            }
            for factor in &within {
                product.iter_mut().zip(factor.solve(v)).for_each(|(p, s)| *p += s / count);
            }
            product
        };
        Moments { mean: visited.mean, covariance_times: Box::new(covariance_times) }
    }

    fn draws(&self, information: &[f64], count: usize, random: &mut Stream) -> Vec<Vec<f64>> {
        let sweeps = Sweeps { burn_in: self.sweeps.burn_in.max(20 * SPACING), kept: count * SPACING };
        let visited = self.gibbs.run(information, sweeps, random);
        visited.draws.into_iter().skip(SPACING - 1).step_by(SPACING).collect()
    }
}
