//! Gibbs sampling of signals with independent increments under a Gaussian likelihood, as in the
//! benchmark of Zach et al. ("DPS benchmark", ICLR 2026).
//!
//! A sweep draws the variances given the increments, and then the whole signal given the variances:
//!
//! ```text
//!     x | w ~ N(Q^-1 h, Q^-1),   Q = P + D^T diag(1/w) D
//! ```
//!
//! Increments of the Bernoulli-Laplace law are u_i = v_i l_i with l_i | w_i ~ N(0, w_i). Each v_i
//! is drawn with all of u integrated out. With the likelihood of u, exp(-u^T M u / 2 + g^T u), M =
//! D^-T P D^-1, g = D^-T h, and q = v w, let S = (M^-1 + diag(q))^-1 and s = S M^-1 g. Raising q_i
//! by d multiplies the integral by (1 + d S_ii)^(-1/2) exp(d s_i^2 / (1 + d S_ii) / 2), and S and s
//! change by rank one: S - d / (1 + d S_ii) S_i S_i^T, s - d s_i / (1 + d S_ii) S_i. With q = 0
//! they are M and g, so no inverse is ever formed.

use super::laws::{Law, increments, probability, running_sums};
use super::linear::{Cholesky, Symmetric};
use super::mixture::normals;
use crate::noise::Stream;

/// Length of a Markov chain.
#[derive(Clone, Copy, Debug)]
pub struct Sweeps {
    /// Sweeps that are thrown away.
    pub burn_in: usize,
    /// Sweeps that are kept.
    pub kept: usize,
}

impl Sweeps {
    /// This many kept sweeps after a third as many that are not.
    pub fn of(kept: usize) -> Sweeps {
        Sweeps { burn_in: kept.div_ceil(3), kept }
    }
}

/// What a Markov chain visited.
pub struct Visited {
    /// The mean over sweeps of E[x | latent variables], which varies less than the draws do.
    pub mean: Vec<f64>,
    /// The draw of each kept sweep.
    pub draws: Vec<Vec<f64>>,
    /// E[x | latent variables] of each kept sweep.
    pub centres: Vec<Vec<f64>>,
    /// The factor of the precision Q of x given the latent variables of each kept sweep; none for
    /// laws with atoms, and none where Q is wide, which would take much memory.
    pub factors: Vec<Cholesky>,
}

/// Posteriors of a law's signals under likelihoods of one precision.
pub struct Gibbs {
    law: Law,
    /// P, with room for the neighbours that increments couple.
    precision: Symmetric,
    /// M row by row, for the Bernoulli-Laplace law.
    of_increments: Vec<f64>,
}

impl Gibbs {
    /// The sampler under likelihoods of this precision.
    pub fn new(law: Law, precision: &Symmetric) -> Gibbs {
        let of_increments = match law {
            Law::BernoulliLaplace => {
                let n = precision.len();
                // D^-T sums over the places from i on.
                let columns: Vec<_> =
                    (0..n).map(|j| suffix_sums(&(0..n).map(|i| precision.get(i, j)).collect::<Vec<_>>())).collect();
                (0..n).flat_map(|i| suffix_sums(&columns.iter().map(|c| c[i]).collect::<Vec<_>>())).collect()
            }
            _ => Vec::new(),
        };
        Gibbs { law, precision: precision.with_band(1), of_increments }
    }

    /// Runs a chain under the likelihood of this information.
    pub fn run(&self, information: &[f64], sweeps: Sweeps, random: &mut Stream) -> Visited {
        match self.law {
            Law::BernoulliLaplace => self.run_with_atoms(information, sweeps, random),
            _ => self.run_without_atoms(information, sweeps, random),
        }
    }

    fn run_without_atoms(&self, information: &[f64], sweeps: Sweeps, random: &mut Stream) -> Visited {
        let n = information.len();
        let mut kept = Keep::new(n, sweeps);
        // The chain starts from the posterior's mean under increments of variance 1.
        let mut x = self.factor(&vec![1.0; n]).solve(information);
        for sweep in 0..sweeps.burn_in + sweeps.kept {
            let u = increments(&x);
            let precisions: Vec<f64> = u.into_iter().map(|u| self.law.precision_given(u, random)).collect();
            let factor = self.factor(&precisions);
            let half = factor.forward(information);
            let noise = normals(n, random);
            x = factor.backward(&half.iter().zip(noise).map(|(h, n)| h + n).collect::<Vec<_>>());
            if sweep >= sweeps.burn_in {
                kept.add(factor.backward(&half), x.clone());
                if self.precision.band() == 1 {
                    kept.visited.factors.push(factor);
                }
            }
        }
        kept.visited
    }

    /// The factor of Q for these precisions 1/w.
    fn factor(&self, precisions: &[f64]) -> Cholesky {
        let mut q = self.precision.clone();
        for (i, &tau) in precisions.iter().enumerate() {
            q.add(i, i, tau);
            if i > 0 {
                q.add(i - 1, i - 1, tau);
                q.add(i, i - 1, -tau);
            }
        }
        q.cholesky().expect("the precision of a proper posterior is positive definite")
    }

    fn run_with_atoms(&self, information: &[f64], sweeps: Sweeps, random: &mut Stream) -> Visited {
        let n = information.len();
        let g = suffix_sums(information);
        let mut kept = Keep::new(n, sweeps);
        let mut u = vec![0.0; n];
        let mut is_active = vec![false; n];
        for sweep in 0..sweeps.burn_in + sweeps.kept {
            let w: Vec<f64> = (0..n)
                .map(|i| match is_active[i] {
                    true => 1.0 / self.law.precision_given(u[i], random),
                    false => Law::unseen_variance(random),
                })
                .collect();
            let mut marginal = Marginal { matrix: self.of_increments.clone(), s: g.clone() };
            (0..n).filter(|&i| is_active[i]).for_each(|i| marginal.raise(i, w[i]));
            for i in 0..n {
                let odds = Law::log_odds() + marginal.log_factor(i, w[i], is_active[i]);
                let next = random.uniform() < probability(odds);
                if next != is_active[i] {
                    marginal.raise(i, if next { w[i] } else { -w[i] });
                    is_active[i] = next;
                }
            }
            let mean = self.draw_active(&g, &w, &is_active, &mut u, random);
            if sweep >= sweeps.burn_in {
                kept.add(running_sums(&mean), running_sums(&u));
            }
        }
        kept.visited
    }

    /// Draws the increments that are not atoms into `u`, sets the others to 0, and gives the mean
    /// of the increments.
    fn draw_active(&self, g: &[f64], w: &[f64], is_active: &[bool], u: &mut [f64], random: &mut Stream) -> Vec<f64> {
        let places: Vec<usize> = (0..g.len()).filter(|&i| is_active[i]).collect();
        let mut mean = vec![0.0; g.len()];
        u.fill(0.0);
        if places.is_empty() {
            return mean;
        }
        let entry = |i: usize, j: usize| {
            let own = if i == j { 1.0 / w[places[i]] } else { 0.0 };
            self.of_increments[places[i] * g.len() + places[j]] + own
        };
        let factor = Symmetric::new(places.len(), entry).cholesky().expect("a positive definite precision");
        let half = factor.forward(&places.iter().map(|&i| g[i]).collect::<Vec<_>>());
        let noise = normals(places.len(), random);
        let draw = factor.backward(&half.iter().zip(noise).map(|(h, n)| h + n).collect::<Vec<_>>());
        for ((&i, m), value) in places.iter().zip(factor.backward(&half)).zip(draw) {
            mean[i] = m;
            u[i] = value;
        }
        mean
    }
}

/// S, row by row, and s of the likelihood of the variances.
struct Marginal {
    matrix: Vec<f64>,
    s: Vec<f64>,
}

impl Marginal {
    /// Adds `d` to q_i.
    fn raise(&mut self, i: usize, d: f64) {
        let n = self.s.len();
        let row = self.matrix[i * n..][..n].to_vec();
        let factor = d / (1.0 + d * row[i]);
        let along = self.s[i];
        for ((line, s), r) in self.matrix.chunks_mut(n).zip(&mut self.s).zip(&row) {
            let share = factor * r;
            line.iter_mut().zip(&row).for_each(|(v, r)| *v -= share * r);
            *s -= share * along;
        }
    }

    /// log of the integral with q_i = w over that with q_i = 0; q_i is w now if it `is_active`.
    fn log_factor(&self, i: usize, w: f64, is_active: bool) -> f64 {
        let (mut own, mut along) = (self.matrix[i * self.s.len() + i], self.s[i]);
        if is_active {
            let without = 1.0 - w * own;
            own /= without;
            along /= without;
        }
        0.5 * (w * along * along / (1.0 + w * own) - (w * own).ln_1p())
    }
}

/// D^-T of a vector: sums from each place to the end.
fn suffix_sums(values: &[f64]) -> Vec<f64> {
    let mut sums = values.to_vec();
    for i in (1..sums.len()).rev() {
        sums[i - 1] += sums[i];
    }
    sums
}

/// Collects what a chain visits.
struct Keep {
    visited: Visited,
    share: f64,
}

impl Keep {
    fn new(length: usize, sweeps: Sweeps) -> Keep {
        let visited = Visited { mean: vec![0.0; length], draws: Vec::new(), centres: Vec::new(), factors: Vec::new() };
        Keep { visited, share: 1.0 / sweeps.kept as f64 }
    }

    fn add(&mut self, centre: Vec<f64>, draw: Vec<f64>) {
        self.visited.mean.iter_mut().zip(&centre).for_each(|(sum, m)| *sum += self.share * m);
        self.visited.centres.push(centre);
        self.visited.draws.push(draw);
    }
}
