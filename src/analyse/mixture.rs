//! Mixtures of normal distributions: every score and every posterior is a formula.
//!
//! Component k is w_k N(mu_k, S_k), given by its precision S_k^-1. Under the likelihood exp(-x^T P
//! x / 2 + h^T x) it becomes, by completing the square,
//!
//! ```text
//!     C_k = (S_k^-1 + P)^-1,   m_k = C_k (S_k^-1 mu_k + h)
//!     log w'_k = log w_k + (log det C_k - log det S_k + m_k^T C_k^-1 m_k - mu_k^T S_k^-1 mu_k) / 2
//!     mean = sum w'_k m_k,   Cov = sum w'_k (C_k + m_k m_k^T) - mean mean^T
//! ```
//!
//! with the w'_k scaled to the sum 1.

use super::linear::{Cholesky, Symmetric, dot};
use super::prior::{Conditional, ExactPrior, Moments};
use crate::noise::Stream;

/// One component of a mixture.
#[derive(Clone, Debug)]
pub struct Component {
    log_weight: f64,
    mean: Vec<f64>,
    precision: Symmetric,
    factor: Cholesky,
}

impl Component {
    /// A component of this weight, mean and precision. None if the precision is not positive
    /// definite or if its size is not that of the mean.
    pub fn new(weight: f64, mean: Vec<f64>, precision: Symmetric) -> Option<Component> {
        let factor = precision.clone().cholesky().filter(|_| precision.len() == mean.len() && weight > 0.0)?;
        Some(Component { log_weight: weight.ln(), mean, precision, factor })
    }

    /// log w_k N(x; mu_k, S_k)
    fn log_density(&self, x: &[f64]) -> f64 {
        let distance: Vec<f64> = x.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
        let scale = self.factor.log_determinant() - x.len() as f64 * std::f64::consts::TAU.ln();
        self.log_weight + 0.5 * (scale - dot(&distance, &self.precision.times(&distance)))
    }
}

/// A mixture of normal distributions; with one component a normal distribution.
#[derive(Clone, Debug)]
pub struct Mixture {
    name: String,
    components: Vec<Component>,
}

impl Mixture {
    /// A mixture of components of one size. The weights need not sum to 1. None without components
    /// or if their sizes differ.
    pub fn new(name: &str, mut components: Vec<Component>) -> Option<Mixture> {
        let length = components.first()?.mean.len();
        if components.iter().any(|c| c.mean.len() != length) {
            return None;
        }
        let total = log_sum_exp(&components.iter().map(|c| c.log_weight).collect::<Vec<_>>());
        components.iter_mut().for_each(|c| c.log_weight -= total);
        Some(Mixture { name: name.into(), components })
    }

    /// A stationary process of mean 0 and variance 1 whose correlation falls to 1/e in 8 places.
    pub fn gaussian(length: usize) -> Mixture {
        let component = Component::new(1.0, vec![0.0; length], autoregressive(length, 8.0, 1.0));
        Mixture::new("gaussian", component.into_iter().collect()).expect("a positive definite precision")
    }

    /// Three processes: a smooth one around 1.5, a rough one around -1.5 and a wide one around 0.
    pub fn usual(length: usize) -> Mixture {
        let rows = [(0.4, 1.5, 16.0, 0.5), (0.4, -1.5, 2.0, 0.5), (0.2, 0.0, 8.0, 2.0)];
        let of = |(weight, mean, range, sigma)| {
            Component::new(weight, vec![mean; length], autoregressive(length, range, sigma))
        };
        Mixture::new("mixture", rows.into_iter().filter_map(of).collect()).expect("positive definite precisions")
    }
}

/// The precision of the stationary process of standard deviation `sigma` with the correlation
/// exp(-|i - j| / range): tridiagonal.
pub fn autoregressive(length: usize, range: f64, sigma: f64) -> Symmetric {
    let rho = (-1.0 / range).exp();
    let scale = 1.0 / (sigma * sigma * (1.0 - rho * rho));
    Symmetric::new(length, |i, j| match i - j {
        0 if length == 1 => 1.0 / (sigma * sigma),
        0 if i == 0 || i + 1 == length => scale,
        0 => scale * (1.0 + rho * rho),
        1 => -scale * rho,
        _ => 0.0,
    })
}

/// log of the sum of exponentials.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most.is_finite() { most + values.iter().map(|v| (v - most).exp()).sum::<f64>().ln() } else { most }
}

/// Standard normal numbers.
pub fn normals(count: usize, random: &mut Stream) -> Vec<f64> {
    (0..count).map(|_| random.normal()).collect()
}

impl ExactPrior for Mixture {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> usize {
        self.components[0].mean.len()
    }

    fn draw(&self, random: &mut Stream) -> Vec<f64> {
        let weights: Vec<f64> = self.components.iter().map(|c| c.log_weight.exp()).collect();
        let component = &self.components[chosen(&weights, random)];
        let x = component.factor.backward(&normals(self.length(), random));
        x.iter().zip(&component.mean).map(|(x, m)| x + m).collect()
    }

    fn log_density(&self, x: &[f64]) -> f64 {
        log_sum_exp(&self.components.iter().map(|c| c.log_density(x)).collect::<Vec<_>>())
    }

    fn under(&self, precision: &Symmetric) -> Box<dyn Conditional + '_> {
        let of = |component: &Component| {
            let Component { log_weight, mean, precision: own, factor } = component;
            let posterior = own.plus(precision).cholesky().expect("the sum of two precisions is positive definite");
            let pull = own.times(mean);
            let constant = 0.5 * (factor.log_determinant() - posterior.log_determinant() - dot(mean, &pull));
            ConditionedComponent { log_weight: log_weight + constant, pull, posterior }
        };
        Box::new(ConditionedMixture(self.components.iter().map(of).collect()))
    }

    fn is_sampled(&self) -> bool {
        false
    }
}

/// The index of a part, drawn by the parts' weights, which sum to 1.
fn chosen(weights: &[f64], random: &mut Stream) -> usize {
    let mut left = random.uniform();
    let place = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    place.unwrap_or(weights.len() - 1)
}

struct ConditionedComponent {
    /// log w'_k without what depends on h.
    log_weight: f64,
    /// S_k^-1 mu_k
    pull: Vec<f64>,
    /// The factor of C_k^-1.
    posterior: Cholesky,
}

struct ConditionedMixture(Vec<ConditionedComponent>);

impl ConditionedMixture {
    /// Weight w'_k and mean m_k of each component.
    fn parts(&self, information: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let mut logs = Vec::new();
        let mut means = Vec::new();
        for c in &self.0 {
            let right: Vec<f64> = c.pull.iter().zip(information).map(|(p, h)| p + h).collect();
            let half = c.posterior.forward(&right);
            logs.push(c.log_weight + 0.5 * dot(&half, &half));
            means.push(c.posterior.backward(&half));
        }
        let total = log_sum_exp(&logs);
        (logs.iter().map(|l| (l - total).exp()).collect(), means)
    }
}

impl Conditional for ConditionedMixture {
    fn moments(&self, information: &[f64], _: &mut Stream) -> Moments<'_> {
        let (weights, means) = self.parts(information);
        let mut mean = vec![0.0; information.len()];
        for (w, m) in weights.iter().zip(&means) {
            mean.iter_mut().zip(m).for_each(|(mean, m)| *mean += w * m);
        }
        let centre = mean.clone();
        let covariance_times = move |v: &[f64]| {
            let mut product = vec![0.0; v.len()];
            for ((w, m), c) in weights.iter().zip(&means).zip(&self.0) {
                let distance: Vec<f64> = m.iter().zip(&centre).map(|(m, c)| m - c).collect();
                let (along, within) = (dot(&distance, v), c.posterior.solve(v));
                for ((p, within), d) in product.iter_mut().zip(within).zip(&distance) {
                    *p += w * (within + d * along);
                }
            }
            product
        };
        Moments { mean, covariance_times: Box::new(covariance_times) }
    }

    fn draws(&self, information: &[f64], count: usize, random: &mut Stream) -> Vec<Vec<f64>> {
        let (weights, means) = self.parts(information);
        let draw = |_| {
            let k = chosen(&weights, random);
            let noise = self.0[k].posterior.backward(&normals(information.len(), random));
            noise.iter().zip(&means[k]).map(|(n, m)| n + m).collect()
        };
        (0..count).map(draw).collect()
    }
}
