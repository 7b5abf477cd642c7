//! The cosine transform by slow loops.

use dmap::Shape;
use std::f64::consts::PI;

/// The orthonormal cosine transform of one channel of y, (h, w), in f64.
pub fn cosine_transform(y: &[f32], shape: Shape, channel: usize) -> Vec<f64> {
    let basis = |k: usize, j: usize, n: usize| {
        let norm = if k == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() };
        norm * (PI * k as f64 * (2 * j + 1) as f64 / (2 * n) as f64).cos()
    };
    let (h, w) = (shape.h, shape.w);
    let value = |i: usize, j: usize| f64::from(y[(i * w + j) * shape.c + channel]);
    let rows: Vec<f64> = (0..h * w).map(|p| (0..w).map(|j| basis(p % w, j, w) * value(p / w, j)).sum()).collect();
    (0..h * w).map(|p| (0..h).map(|i| basis(p / w, i, h) * rows[i * w + p % w]).sum()).collect()
}
