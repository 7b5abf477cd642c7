//! A measured image with its operator as a dense matrix, in f64.

use dmap::graph::Shape;
use dmap::operator::{Operator, parse_task};
use dmap::sampler::{Measurement, Measurer, Noise};
use std::cell::OnceCell;
use std::sync::Arc;

/// The columns of A: what it makes of each unit vector.
fn columns(operator: &dyn Operator, image: Shape, state: &[f32]) -> Vec<Vec<f64>> {
    let mut measurer = Measurer::new(operator, image).unwrap();
    let unit = |i: usize| (0..image.numel()).map(|j| f32::from(u8::from(i == j))).collect::<Vec<f32>>();
    let column = |i| measurer.apply(&unit(i), state).unwrap().into_iter().map(f64::from).collect();
    (0..image.numel()).map(column).collect()
}

/// x of M x = b by elimination with pivots.
fn solve(mut m: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| m[i][k].abs().total_cmp(&m[j][k].abs())).unwrap();
        m.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = m[i][k] / m[k][k];
            let row = m[k].clone();
            m[i][k..].iter_mut().zip(&row[k..]).for_each(|(a, p)| *a -= factor * p);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| m[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / m[k][k];
    }
    b
}

/// A measured image, and A as a matrix.
pub struct Problem {
    columns: Vec<Vec<f64>>,
    pub y: Vec<f64>,
    /// Standard deviation of the noise.
    pub s: f64,
    singular: OnceCell<Vec<(f64, Vec<f64>)>>,
}

/// Eigenvalues and eigenvectors of a symmetric matrix by cyclic rotations (Jacobi 1846).
fn eigenvectors(mut m: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = m.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let turned = |a: f64, b: f64, c: f64, s: f64| (c * a - s * b, s * a + c * b);
    for _ in 0..20 {
        let mut largest = 0f64;
        for i in 0..n {
            for j in i + 1..n {
                largest = largest.max(m[i][j].abs());
                if m[i][j].abs() < 1e-15 {
                    continue;
                }
                // The angle at which the element (i, j) vanishes.
                let angle = 0.5 * (2.0 * m[i][j]).atan2(m[j][j] - m[i][i]);
                let (s, c) = angle.sin_cos();
                for row in &mut m {
                    (row[i], row[j]) = turned(row[i], row[j], c, s);
                }
                for k in 0..n {
                    (m[i][k], m[j][k]) = turned(m[i][k], m[j][k], c, s);
                    (vectors[i][k], vectors[j][k]) = turned(vectors[i][k], vectors[j][k], c, s);
                }
            }
        }
        if largest < 1e-14 {
            break;
        }
    }
    (0..n).map(|i| m[i][i]).zip(vectors).collect()
}

impl Problem {
    pub fn new(operator: &dyn Operator, image: Shape, m: &Measurement) -> Problem {
        let columns = columns(operator, image, &m.state);
        let s = m.noise_variance(operator, image).sqrt();
        Problem { columns, y: m.y.iter().map(|&v| v.into()).collect(), s, singular: OnceCell::new() }
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.y.len()];
        for (column, x) in self.columns.iter().zip(x) {
            out.iter_mut().zip(column).for_each(|(o, a)| *o += a * x);
        }
        out
    }

    pub fn transpose(&self, u: &[f64]) -> Vec<f64> {
        self.columns.iter().map(|c| c.iter().zip(u).map(|(a, u)| a * u).sum()).collect()
    }

    pub fn missing(&self, x: &[f64]) -> Vec<f64> {
        self.y.iter().zip(self.apply(x)).map(|(y, a)| y - a).collect()
    }

    /// A^T (A A^T + rho)^-1 (y - A z)
    pub fn correction(&self, z: &[f64], rho: f64) -> Vec<f64> {
        let m = self.y.len();
        let mut gram = vec![vec![0.0; m]; m];
        for column in &self.columns {
            for (i, a) in column.iter().enumerate().filter(|(_, a)| **a != 0.0) {
                gram[i].iter_mut().zip(column).for_each(|(g, b)| *g += a * b);
            }
        }
        (0..m).for_each(|i| gram[i][i] += rho.max(1e-9));
        self.transpose(&solve(gram, self.missing(z)))
    }

    /// The squares of all singular values of A, 0 included, each with its right singular vector.
    fn singular(&self) -> &[(f64, Vec<f64>)] {
        self.singular.get_or_init(|| {
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
            eigenvectors(self.columns.iter().map(|a| self.columns.iter().map(|b| product(a, b)).collect()).collect())
        })
    }

    /// A step of DDRM to sigma, in VE coordinates.
    pub fn ddrm(&self, [x0, eps, n]: [&[f64]; 3], sigma: f64, eta: f64, etab: f64) -> Vec<f64> {
        let mut next = vec![0.0; x0.len()];
        let back = self.transpose(&self.y);
        for (power, v) in self.singular() {
            let of = |x: &[f64]| x.iter().zip(v).map(|(x, v)| x * v).sum::<f64>();
            let (x0, eps, n) = (of(x0), of(eps), of(n));
            let coefficient = if *power < 1e-6 {
                x0 + (1.0 - eta * eta).sqrt() * sigma * eps + eta * sigma * n
            } else {
                let (y, a) = (of(&back) / power, self.s / power.sqrt());
                match sigma < a {
                    true => x0 + (1.0 - eta * eta).sqrt() * sigma * (y - x0) / a + eta * sigma * n,
                    false => (1.0 - etab) * x0 + etab * y + (sigma * sigma - (a * etab).powi(2)).sqrt() * n,
                }
            };
            next.iter_mut().zip(v).for_each(|(x, v)| *x += coefficient * v);
        }
        next
    }

    pub fn proximal(&self, z: &[f64], rho: f64) -> Vec<f64> {
        z.iter().zip(self.correction(z, rho)).map(|(z, c)| z + c).collect()
    }
}

pub fn measured(task: &str, image: Shape, noise: f64, seed: u64) -> (Arc<dyn Operator>, Measurement) {
    let operator = parse_task(task).unwrap();
    let x: Vec<f32> = (0..image.item()).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.8).collect();
    let one = Shape { n: 1, ..image };
    let m = Measurement::simulate(operator.as_ref(), one, &x, Noise::Gaussian(noise), seed).unwrap().0;
    (operator, m)
}
