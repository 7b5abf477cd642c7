//! Symmetric banded matrices in f64 and their Cholesky factors. The priors of this module have
//! tridiagonal precisions: with an operator that sees single values, a factorisation then takes
//! O(n) operations. An operator that mixes all values makes the band as wide as the matrix.

/// A symmetric matrix whose entries are zero beyond `band` places from the diagonal.
#[derive(Clone, Debug)]
pub struct Symmetric {
    n: usize,
    band: usize,
    /// Row i holds the columns i - band to i.
    rows: Vec<f64>,
}

impl Symmetric {
    /// The matrix of `n` x `n` values `of(row, column)`, column <= row, with the narrowest band
    /// that holds all that are not zero.
    pub fn new(n: usize, of: impl Fn(usize, usize) -> f64) -> Symmetric {
        let widest = (0..n).filter_map(|i| (0..i).find(|&j| of(i, j) != 0.0).map(|j| i - j)).max();
        let mut matrix = Symmetric::zero(n, widest.unwrap_or(0));
        for i in 0..n {
            for j in i.saturating_sub(matrix.band)..=i {
                *matrix.at(i, j) = of(i, j);
            }
        }
        matrix
    }

    /// The matrix with this diagonal.
    pub fn diagonal(diagonal: &[f64]) -> Symmetric {
        Symmetric { n: diagonal.len(), band: 0, rows: diagonal.to_vec() }
    }

    fn zero(n: usize, band: usize) -> Symmetric {
        Symmetric { n, band, rows: vec![0.0; n * (band + 1)] }
    }

    fn at(&mut self, i: usize, j: usize) -> &mut f64 {
        &mut self.rows[i * (self.band + 1) + j + self.band - i]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// True if it has no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Places from the diagonal up to which entries can differ from zero.
    pub fn band(&self) -> usize {
        self.band
    }

    /// The entry in row `i` and column `j`.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.max(j), i.min(j));
        if i - j > self.band { 0.0 } else { self.rows[i * (self.band + 1) + j + self.band - i] }
    }

    /// The same matrix with room for entries up to `least` places from the diagonal.
    pub fn with_band(&self, least: usize) -> Symmetric {
        Symmetric::zero(self.n, least.min(self.n.saturating_sub(1))).plus(self)
    }

    /// Adds to the entry in row `i` and column `j`, j <= i, which lies within the band.
    pub fn add(&mut self, i: usize, j: usize, value: f64) {
        *self.at(i, j) += value;
    }

    /// The matrix times a number.
    pub fn scaled(mut self, factor: f64) -> Symmetric {
        self.rows.iter_mut().for_each(|v| *v *= factor);
        self
    }

    /// The sum with a matrix of the same size.
    pub fn plus(&self, other: &Symmetric) -> Symmetric {
        let (wide, narrow) = if self.band >= other.band { (self, other) } else { (other, self) };
        let mut sum = wide.clone();
        for i in 0..sum.n {
            for j in i.saturating_sub(narrow.band)..=i {
                *sum.at(i, j) += narrow.get(i, j);
            }
        }
        sum
    }

    /// The product with a vector.
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.n];
        for i in 0..self.n {
            let from = i.saturating_sub(self.band);
            let row = &self.rows[i * (self.band + 1) + from + self.band - i..][..i + 1 - from];
            product[i] += dot(row, &x[from..=i]);
            for (value, j) in row[..i - from].iter().zip(from..) {
                product[j] += value * x[i];
            }
        }
        product
    }

    /// The lower factor L of the matrix, L L^T. None if the matrix is not positive definite.
    pub fn cholesky(mut self) -> Option<Cholesky> {
        let (band, width) = (self.band, self.band + 1);
        for i in 0..self.n {
            let from = i.saturating_sub(band);
            let (above, row) = self.rows.split_at_mut(i * width);
            for j in from..=i {
                // Columns that rows i and j share, before column j.
                let start = from.max(j.saturating_sub(band));
                let left = &row[start + band - i..j + band - i];
                if j < i {
                    let other = &above[j * width..][..width];
                    let rest = row[j + band - i] - dot(left, &other[start + band - j..band]);
                    row[j + band - i] = rest / other[band];
                } else {
                    let rest = row[band] - dot(left, left);
                    if !(rest > 0.0 && rest.is_finite()) {
                        return None;
                    }
                    row[band] = rest.sqrt();
                }
            }
        }
        Some(Cholesky(self))
    }
}

/// The lower Cholesky factor L of a positive definite matrix L L^T.
#[derive(Clone, Debug)]
pub struct Cholesky(Symmetric);

impl Cholesky {
    /// L^-1 b
    pub fn forward(&self, b: &[f64]) -> Vec<f64> {
        let Symmetric { n, band, ref rows } = self.0;
        let mut x = b.to_vec();
        for i in 0..n {
            let from = i.saturating_sub(band);
            let row = &rows[i * (band + 1)..][..band + 1];
            x[i] = (x[i] - dot(&row[from + band - i..band], &x[from..i])) / row[band];
        }
        x
    }

    /// L^-T b: for standard normal b a draw of N(0, (L L^T)^-1).
    pub fn backward(&self, b: &[f64]) -> Vec<f64> {
        let Symmetric { n, band, ref rows } = self.0;
        let mut x = b.to_vec();
        for i in (0..n).rev() {
            let from = i.saturating_sub(band);
            let row = &rows[i * (band + 1)..][..band + 1];
            x[i] /= row[band];
            let value = x[i];
            for (x, l) in x[from..i].iter_mut().zip(&row[from + band - i..band]) {
                *x -= l * value;
            }
        }
        x
    }

    /// (L L^T)^-1 b
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        self.backward(&self.forward(b))
    }

    /// log det (L L^T)
    pub fn log_determinant(&self) -> f64 {
        (0..self.0.n).map(|i| 2.0 * self.0.get(i, i).ln()).sum()
    }
}

/// The inner product. Four sums side by side, which the compiler turns into vector instructions.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a4.zip(b4) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// || a ||
pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
