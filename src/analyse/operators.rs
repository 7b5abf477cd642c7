//! Linear operators on signals of [`LENGTH`] values, as dense matrices: the
//! four of the benchmark of Zach et al. ("DPS benchmark", ICLR 2026).

use super::linear::{Symmetric, dot};
use crate::error::{Error, Result, nearest};

/// Number of values of a signal.
pub const LENGTH: usize = 64;

/// Positions that `sample` keeps.
const SAMPLED: [usize; 33] = [
    0, 3, 6, 8, 9, 12, 13, 17, 18, 19, 21, 25, 27, 29, 31, 32, 33, 35, 38, 39, 42, 43, 44, 47, 48, 50, 53, 55, 57, 58,
    60, 62, 63,
];

/// Frequencies that `fourier` keeps: 36 real numbers.
const FREQUENCIES: [usize; 19] = [0, 1, 2, 3, 4, 6, 8, 9, 12, 13, 17, 18, 19, 21, 25, 27, 29, 31, 32];

/// Taps of `convolution` and their standard deviation.
const TAPS: (usize, f64) = (13, 2.0);

/// Name and description of every operator.
pub const LINEAR_OPERATORS: [(&str, &str); 4] = [
    ("identity", "all 64 values"),
    ("convolution", "circular convolution with 13 Gaussian taps of standard deviation 2"),
    ("sample", "33 of the 64 values"),
    ("fourier", "19 of the 33 frequencies of the orthonormal real Fourier transform: 36 values"),
];

/// A linear operator A: a matrix of m rows.
#[derive(Clone, Debug)]
pub struct LinearOperator {
    name: &'static str,
    rows: Vec<Vec<f64>>,
}

impl LinearOperator {
    /// The operator of this name. Fails on an unknown name; the error then suggests a known one.
    pub fn parse(name: &str) -> Result<LinearOperator> {
        let names = LINEAR_OPERATORS.map(|o| o.0);
        let Some(name) = names.into_iter().find(|n| *n == name) else {
            let meant = nearest(name, names).unwrap_or_default();
            let known = names.join(", ");
            return Err(Error::Invalid(format!(
                "unknown operator {name}: did you mean {meant}? A built-in prior takes {known}"
            )));
        };
        let unit = |i: usize| (0..LENGTH).map(|j| f64::from(u8::from(i == j))).collect();
        let rows = match name {
            "identity" => (0..LENGTH).map(unit).collect(),
            "convolution" => convolution(),
            "sample" => SAMPLED.into_iter().map(unit).collect(),
            _ => fourier(),
        };
        Ok(LinearOperator { name, rows })
    }

    /// As it is typed.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Number of measured values m.
    pub fn measured(&self) -> usize {
        self.rows.len()
    }

    /// A x, m values.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|row| dot(row, x)).collect()
    }

    /// A^T y
    pub fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; LENGTH];
        for (row, y) in self.rows.iter().zip(y) {
            x.iter_mut().zip(row).for_each(|(x, a)| *x += a * y);
        }
        x
    }

    /// A^T A
    pub fn gram(&self) -> Symmetric {
        let column = |j: usize| self.rows.iter().map(|row| row[j]).collect::<Vec<f64>>();
        let columns: Vec<_> = (0..LENGTH).map(column).collect();
        Symmetric::new(LENGTH, |i, j| dot(&columns[i], &columns[j]))
    }
}

fn convolution() -> Vec<Vec<f64>> {
    let (count, sigma) = TAPS;
    let half = (count / 2) as isize;
    let tap = |k: isize| (-0.5 * (k as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-half..=half).map(tap).sum();
    let row = |i: usize| {
        let mut row = vec![0.0; LENGTH];
        for k in -half..=half {
            row[(i as isize + k).rem_euclid(LENGTH as isize) as usize] += tap(k) / sum;
        }
        row
    };
    (0..LENGTH).map(row).collect()
}

/// The real part of each kept frequency, then its imaginary part if it has one.
fn fourier() -> Vec<Vec<f64>> {
    let mut rows = Vec::new();
    for frequency in FREQUENCIES {
        let is_real = frequency == 0 || 2 * frequency == LENGTH;
        let scale = if is_real { 1.0 } else { 2f64.sqrt() } / (LENGTH as f64).sqrt();
        let angle = |j: usize| std::f64::consts::TAU * (frequency * j % LENGTH) as f64 / LENGTH as f64;
        rows.push((0..LENGTH).map(|j| scale * angle(j).cos()).collect());
        if !is_real {
            rows.push((0..LENGTH).map(|j| -scale * angle(j).sin()).collect());
        }
    }
    rows
}
