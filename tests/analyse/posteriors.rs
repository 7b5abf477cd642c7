//! Posteriors of the built-in priors.

use crate::stream;
use dmap::analyse::gibbs::{Gibbs, Sweeps};
use dmap::analyse::increments::Increments;
use dmap::analyse::laws::{Law, gamma, inverse_gaussian};
use dmap::analyse::linear::{Symmetric, dot};
use dmap::analyse::mixture::{Component, Mixture, log_sum_exp, normals};
use dmap::analyse::operators::{LENGTH, LINEAR_OPERATORS, LinearOperator};
use dmap::analyse::prior::{ExactPrior, of_noisy, score};
use dmap::analyse::problem::{EXACT_PRIORS, exact_prior};

type Matrix = Vec<Vec<f64>>;

/// Inverse and log of the determinant, by Gauss and Jordan.
fn inverse(a: &Matrix) -> (Matrix, f64) {
    let n = a.len();
    let mut rows: Matrix =
        (0..n).map(|i| a[i].iter().copied().chain((0..n).map(|j| f64::from(u8::from(i == j)))).collect()).collect();
    let mut log_determinant = 0.0;
    for i in 0..n {
        let pivot = rows[i][i];
        log_determinant += pivot.ln();
        rows[i].iter_mut().for_each(|v| *v /= pivot);
        let row = rows[i].clone();
        for (_, other) in rows.iter_mut().enumerate().filter(|(k, _)| *k != i) {
            let factor = other[i];
            other.iter_mut().zip(&row).for_each(|(v, r)| *v -= factor * r);
        }
    }
    (rows.into_iter().map(|row| row[n..].to_vec()).collect(), log_determinant)
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let entry = |row: &Vec<f64>, j: usize| row.iter().zip(b).map(|(v, line)| v * line[j]).sum();
    a.iter().map(|row| (0..b[0].len()).map(|j| entry(row, j)).collect()).collect()
}

fn transposed(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
}

fn times(a: &Matrix, x: &[f64]) -> Vec<f64> {
    a.iter().map(|row| dot(row, x)).collect()
}

fn combined(a: &Matrix, scale: f64, diagonal: f64) -> Matrix {
    let entry = |i: usize, j: usize| scale * a[i][j] + if i == j { diagonal } else { 0.0 };
    (0..a.len()).map(|i| (0..a.len()).map(|j| entry(i, j)).collect()).collect()
}

fn log_normal(x: &[f64], mean: &[f64], covariance: &Matrix) -> f64 {
    let distance: Vec<f64> = x.iter().zip(mean).map(|(x, m)| x - m).collect();
    let (precision, log_determinant) = inverse(covariance);
    -0.5 * (dot(&distance, &times(&precision, &distance))
        + log_determinant
        + x.len() as f64 * std::f64::consts::TAU.ln())
}

/// A mixture in 4 dimensions by its covariances, a measurement of two values, and a level.
struct Case {
    weights: Vec<f64>,
    means: Matrix,
    covariances: Vec<Matrix>,
    a: Matrix,
    y: Vec<f64>,
    sigma: f64,
    alpha_bar: f64,
}

impl Case {
    fn new() -> Case {
        let mut random = stream(0);
        let mut matrix = |n, m| -> Matrix { (0..n).map(|_| normals(m, &mut random)).collect() };
        let square = |m: Matrix| combined(&product(&m, &transposed(&m)), 0.5, 0.3);
        Case {
            weights: vec![0.5, 0.2, 0.3],
            means: matrix(3, 4),
            covariances: (0..3).map(|_| square(matrix(4, 4))).collect(),
            a: matrix(2, 4),
            y: vec![0.4, -1.1],
            sigma: 0.3,
            alpha_bar: 0.37,
        }
    }

    fn mixture(&self) -> Mixture {
        let of = |k: usize| {
            let precision = inverse(&self.covariances[k]).0;
            Component::new(self.weights[k], self.means[k].clone(), Symmetric::new(4, |i, j| precision[i][j])).unwrap()
        };
        Mixture::new("case", (0..3).map(of).collect()).unwrap()
    }

    /// Precision and information of x_t, and of y if `with_y`.
    fn likelihood(&self, x_t: &[f64], with_y: bool) -> (Symmetric, Vec<f64>) {
        let (precision, scale) = of_noisy(self.alpha_bar);
        let of_y = if with_y { self.sigma.powi(-2) } else { 0.0 };
        let gram = product(&transposed(&self.a), &self.a);
        let p = Symmetric::new(4, |i, j| of_y * gram[i][j] + if i == j { precision } else { 0.0 });
        let back = times(&transposed(&self.a), &self.y);
        (p, x_t.iter().zip(back).map(|(x, b)| scale * x + of_y * b).collect())
    }

    fn mean(&self, x_t: &[f64], with_y: bool) -> Vec<f64> {
        let (p, h) = self.likelihood(x_t, with_y);
        self.mixture().under(&p).moments(&h, &mut stream(0)).mean
    }

    /// log p_t(x_t) and log p(x_t, y), component by component from covariances.
    fn log_densities(&self, x_t: &[f64]) -> (f64, f64) {
        let root = self.alpha_bar.sqrt();
        let (mut alone, mut joint) = (Vec::new(), Vec::new());
        for k in 0..3 {
            let s = &self.covariances[k];
            let v = combined(s, self.alpha_bar, 1.0 - self.alpha_bar);
            let mean: Vec<f64> = self.means[k].iter().map(|m| root * m).collect();
            let of_x = self.weights[k].ln() + log_normal(x_t, &mean, &v);
            // y given x_t within the component.
            let gain = product(s, &inverse(&v).0);
            let distance: Vec<f64> = x_t.iter().zip(&mean).map(|(x, m)| root * (x - m)).collect();
            let e: Vec<f64> = times(&gain, &distance).iter().zip(&self.means[k]).map(|(d, m)| d + m).collect();
            let explained = product(&gain, s);
            let rest: Matrix =
                (0..4).map(|i| (0..4).map(|j| s[i][j] - self.alpha_bar * explained[i][j]).collect()).collect();
            let seen = product(&product(&self.a, &rest), &transposed(&self.a));
            let of_y = log_normal(&self.y, &times(&self.a, &e), &combined(&seen, 1.0, self.sigma.powi(2)));
            alone.push(of_x);
            joint.push(of_x + of_y);
        }
        (log_sum_exp(&alone), log_sum_exp(&joint))
    }
}

/// Central differences.
fn slopes(x: &[f64], of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-4;
    let at = |i: usize, by: f64| {
        let mut moved = x.to_vec();
        moved[i] += by;
        of(&moved)
    };
    // Of fourth order.
    (0..x.len())
        .map(|i| (8.0 * (at(i, step) - at(i, -step)) - at(i, 2.0 * step) + at(i, -2.0 * step)) / (12.0 * step))
        .collect()
}

fn close(a: &[f64], b: &[f64], most: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < most * (1.0 + b.abs()), "{a} is not {b}");
    }
}

#[test]
fn scores_of_a_mixture_are_the_slopes_of_its_log_densities() {
    let case = Case::new();
    let x_t = [0.3, -0.7, 1.2, 0.1];
    let of_prior = score(&x_t, &case.mean(&x_t, false), case.alpha_bar);
    let of_posterior = score(&x_t, &case.mean(&x_t, true), case.alpha_bar);
    close(&of_prior, &slopes(&x_t, |x| case.log_densities(x).0), 1e-8);
    close(&of_posterior, &slopes(&x_t, |x| case.log_densities(x).1), 1e-8);
    // Prior + likelihood = posterior.
    let likelihood = slopes(&x_t, |x| case.log_densities(x).1 - case.log_densities(x).0);
    let sum: Vec<f64> = of_prior.iter().zip(&likelihood).map(|(a, b)| a + b).collect();
    close(&of_posterior, &sum, 1e-8);
    assert!(of_prior.iter().zip(&of_posterior).any(|(a, b)| (a - b).abs() > 0.1), "y says something");
}

#[test]
fn the_jacobian_of_a_denoiser_is_its_covariance() {
    let case = Case::new();
    let (x_t, v) = ([0.3, -0.7, 1.2, 0.1], [0.2, 1.0, -0.5, 0.7]);
    let mixture = case.mixture();
    for with_y in [false, true] {
        let (p, h) = case.likelihood(&x_t, with_y);
        let conditional = mixture.under(&p);
        let found = (conditional.moments(&h, &mut stream(0)).covariance_times)(&v);
        // J v = sqrt(abar) / bbar Cov v, and J is symmetric.
        let scale = of_noisy(case.alpha_bar).1;
        let expected = slopes(&x_t, |x| dot(&case.mean(x, with_y), &v));
        close(&found.iter().map(|f| scale * f).collect::<Vec<_>>(), &expected, 1e-8);
    }
}

#[test]
fn draws_of_a_mixture_s_posterior_have_its_moments() {
    let case = Case::new();
    let (p, h) = case.likelihood(&[0.3, -0.7, 1.2, 0.1], true);
    let mixture = case.mixture();
    let conditional = mixture.under(&p);
    let draws = conditional.draws(&h, 40_000, &mut stream(1));
    let moments = conditional.moments(&h, &mut stream(0));
    for i in 0..4 {
        let unit: Vec<f64> = (0..4).map(|j| f64::from(u8::from(i == j))).collect();
        let variance = (moments.covariance_times)(&unit)[i];
        let mean = draws.iter().map(|x| x[i]).sum::<f64>() / 4e4;
        assert!((mean - moments.mean[i]).abs() < 4.0 * (variance / 4e4).sqrt());
        let spread = draws.iter().map(|x| (x[i] - mean).powi(2)).sum::<f64>() / 4e4;
        assert!((spread / variance - 1.0).abs() < 0.05, "{spread} is not {variance}");
    }
}

#[test]
fn operators_have_their_rows_and_adjoints() {
    let rows = [("identity", 64), ("convolution", 64), ("sample", 33), ("fourier", 36)];
    for (name, measured) in rows {
        let a = LinearOperator::parse(name).unwrap();
        assert_eq!(a.measured(), measured, "{name}");
        let (x, y) = (normals(LENGTH, &mut stream(2)), normals(measured, &mut stream(3)));
        let (left, right) = (dot(&a.apply(&x), &y), dot(&x, &a.adjoint(&y)));
        assert!((left - right).abs() < 1e-12 * left.abs().max(1.0), "{name}");
        assert!((dot(&a.gram().times(&x), &x) - dot(&a.apply(&x), &a.apply(&x))).abs() < 1e-10, "{name}");
        // All but the convolution have orthonormal rows, A A^T = I; its rows sum to 1.
        let back = a.apply(&a.adjoint(&y));
        match name {
            "convolution" => close(&a.apply(&[1.0; LENGTH]), &[1.0; LENGTH], 1e-12),
            _ => close(&back, &y, 1e-12),
        }
    }
    assert_eq!(LINEAR_OPERATORS.map(|o| o.0), rows.map(|r| r.0));
}

#[test]
fn draws_of_the_latent_variables_have_their_moments() {
    let count = 200_000;
    let check = |name: &str, draws: &[f64], mean: f64, variance: f64| {
        let found = draws.iter().sum::<f64>() / draws.len() as f64;
        let error = (variance / draws.len() as f64).sqrt();
        assert!((found - mean).abs() < 4.0 * error, "{name}: {found} is not {mean} +- {error}");
    };
    let mut random = stream(4);
    for (mean, shape) in [(1.0, 1.0), (0.2, 3.0), (40.0, 1.0)] {
        let x: Vec<f64> = (0..count).map(|_| inverse_gaussian(mean, shape, &mut random)).collect();
        check("inverse Gaussian", &x, mean, mean * mean * mean / shape);
        // 1/x is GIG(p = 1/2): mean 1/mu + 1/lambda, variance 1/(mu lambda) + 2/lambda^2.
        let z: Vec<f64> = x.iter().map(|x| 1.0 / x).collect();
        check("GIG", &z, 1.0 / mean + 1.0 / shape, 1.0 / (mean * shape) + 2.0 / (shape * shape));
    }
    for (shape, rate) in [(0.5, 0.5), (1.0, 2.0), (4.5, 0.1)] {
        let x: Vec<f64> = (0..count).map(|_| gamma(shape, rate, &mut random)).collect();
        check("Gamma", &x, shape / rate, shape / (rate * rate));
        // Variance of the square: E x^4 - (E x^2)^2.
        let power = |k: i32| (0..k).map(|j| shape + f64::from(j)).product::<f64>() / rate.powi(k);
        let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
        check("Gamma squared", &squares, power(2), power(4) - power(2).powi(2));
    }
}

/// A likelihood of signals of `n` values that couples all of them.
fn likelihood(n: usize) -> (Symmetric, Vec<f64>) {
    let p = Symmetric::new(n, |i, j| 0.5 * (-(i.abs_diff(j) as f64)).exp() + if i == j { 0.6 } else { 0.0 });
    (p, (0..n).map(|i| 1.5 - i as f64).collect())
}

/// Means of batches: their mean and its standard error.
fn batched(values: &[f64]) -> (f64, f64) {
    let means: Vec<f64> = values.chunks(values.len() / 40).map(|b| b.iter().sum::<f64>() / b.len() as f64).collect();
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    (mean, (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt())
}

#[test]
fn gibbs_sampling_of_gauss_increments_agrees_with_the_formula() {
    let n = 6;
    let (p, h) = likelihood(n);
    let prior = Increments::new(Law::Gauss, n, Sweeps::of(10));
    let conditional = prior.under(&p);
    let exact = conditional.moments(&h, &mut stream(0));
    let visited = Gibbs::new(Law::Gauss, &p).run(&h, Sweeps { burn_in: 10, kept: 40_000 }, &mut stream(6));
    for i in 0..n {
        let unit: Vec<f64> = (0..n).map(|j| f64::from(u8::from(i == j))).collect();
        let covariance = (exact.covariance_times)(&unit);
        let (mean, error) = batched(&visited.draws.iter().map(|x| x[i]).collect::<Vec<_>>());
        assert!((mean - exact.mean[i]).abs() < 4.0 * error, "{i}: {mean} is not {} +- {error}", exact.mean[i]);
        assert!((visited.mean[i] - exact.mean[i]).abs() < 1e-9, "with a known variance the mean has no error");
        for (j, expected) in covariance.iter().enumerate() {
            let products = |x: &Vec<f64>| (x[i] - exact.mean[i]) * (x[j] - exact.mean[j]);
            let (found, error) = batched(&visited.draws.iter().map(products).collect::<Vec<_>>());
            assert!((found - expected).abs() < 4.0 * error, "{i} {j}: {found} is not {expected} +- {error}");
        }
    }
}

/// The density of an increment without its atom, and the weight of the atom.
fn density(law: Law, u: f64) -> (f64, f64) {
    let laplace = 0.5 * (-u.abs()).exp();
    match law {
        Law::Laplace => (laplace, 0.0),
        Law::BernoulliLaplace => (0.1 * laplace, 0.9),
        // Student's densities with 1 and 3 degrees of freedom.
        Law::Student(1.0) => (1.0 / (std::f64::consts::PI * (1.0 + u * u)), 0.0),
        Law::Student(_) => (6.0 * 3f64.sqrt() / (std::f64::consts::PI * (3.0 + u * u).powi(2)), 0.0),
        Law::Gauss => unreachable!("its posterior is a formula"),
    }
}

#[test]
fn gibbs_sampling_of_two_increments_agrees_with_an_integral() {
    let (p, h) = likelihood(2);
    for law in [Law::Laplace, Law::Student(1.0), Law::Student(3.0), Law::BernoulliLaplace] {
        // Half a step beside 0, where the densities of Laplace have a kink.
        let (step, half) = (0.02, 600);
        let grid: Vec<f64> = (-half..half).map(|k| (f64::from(k) + 0.5) * step).collect();
        let places = |atom: f64| {
            let at_zero = (atom > 0.0).then_some((0.0, atom));
            grid.iter().map(|&u| (u, step * density(law, u).0)).chain(at_zero).collect::<Vec<_>>()
        };
        let all = places(density(law, 0.0).1);
        let (mut total, mut first, mut second) = (0.0, [0.0; 2], [0.0; 2]);
        for &(u, weight) in &all {
            for &(v, other) in &all {
                let x = [u, u + v];
                let w = weight * other * (dot(&h, &x) - 0.5 * dot(&x, &p.times(&x))).exp();
                total += w;
                for i in 0..2 {
                    first[i] += w * x[i];
                    second[i] += w * x[i] * x[i];
                }
            }
        }
        let visited = Gibbs::new(law, &p).run(&h, Sweeps { burn_in: 200, kept: 80_000 }, &mut stream(7));
        for i in 0..2 {
            for (power, expected) in [(1, first[i] / total), (2, second[i] / total)] {
                let values: Vec<f64> = visited.draws.iter().map(|x| x[i].powi(power)).collect();
                let (found, error) = batched(&values);
                assert!(error < 0.05 * (1.0 + expected.abs()), "{law:?}: {error} is too large to tell");
                assert!((found - expected).abs() < 4.5 * error, "{law:?} {i}: {found} is not {expected} +- {error}");
            }
            let mean = first[i] / total;
            assert!((visited.mean[i] - mean).abs() < 0.03 * (1.0 + mean.abs()), "{law:?}: {} {mean}", visited.mean[i]);
        }
    }
}

#[test]
fn densities_integrate_to_one_and_belong_to_the_draws() {
    for law in [Law::Gauss, Law::Laplace, Law::Student(3.0), Law::Student(1.0)] {
        let (step, half) = (0.01, 200_000);
        let integral: f64 = (-half..half).map(|k| step * law.log_density((f64::from(k) + 0.5) * step).exp()).sum();
        assert!((integral - 1.0).abs() < 1e-3, "{law:?}: {integral}");
        // The share of draws within one, against the density.
        let within: f64 = (-100..100).map(|k| step * law.log_density((f64::from(k) + 0.5) * step).exp()).sum();
        let mut random = stream(8);
        let share = (0..100_000).filter(|_| law.draw(&mut random).abs() < 1.0).count() as f64 / 1e5;
        assert!((share - within).abs() < 4.0 * (within * (1.0 - within) / 1e5).sqrt(), "{law:?}: {share} {within}");
    }
    let mut random = stream(9);
    let zeros = (0..100_000).filter(|_| Law::BernoulliLaplace.draw(&mut random) == 0.0).count() as f64 / 1e5;
    assert!((zeros - Law::BernoulliLaplace.log_density(0.0).exp()).abs() < 0.004, "{zeros}");
}

#[test]
fn every_prior_has_a_posterior_at_the_ends_of_the_schedule() {
    for (name, _) in EXACT_PRIORS {
        let name = if name == "student" { "student:1" } else { name };
        let prior = exact_prior(name, LENGTH, 12).unwrap().unwrap();
        let x = prior.draw(&mut stream(10));
        assert!(prior.log_density(&x).is_finite() && prior.name() == name);
        for alpha_bar in [4e-5, 0.5, 0.9999] {
            let (p, scale) = of_noisy(alpha_bar);
            let conditional = prior.under(&Symmetric::diagonal(&[p; LENGTH]));
            let h: Vec<f64> = x.iter().map(|x| scale * alpha_bar.sqrt() * x).collect();
            let moments = conditional.moments(&h, &mut stream(11));
            let spread = (moments.covariance_times)(&h);
            assert!(moments.mean.iter().chain(&spread).all(|v| v.is_finite()), "{name} at {alpha_bar}");
            assert!(dot(&spread, &h) >= 0.0, "{name} at {alpha_bar}: a covariance is not negative");
        }
    }
}
