//! The Hartley transform by slow loops.

use dmap::Shape;
use std::f64::consts::PI;

/// The Hartley transform of one channel of y, (h, w), in f64: the sums of y(i, j) cas(2 pi (i k / h +
/// j l / w)) over the root of h w, with cas = cos + sin and places and frequencies counted from the
/// middle.
pub fn hartley_transform(y: &[f32], shape: Shape, channel: usize) -> Vec<f64> {
    let (h, w) = (shape.h, shape.w);
    let middle = |p: usize| ((p / w) as f64 - (h / 2) as f64, (p % w) as f64 - (w / 2) as f64);
    let value = |q: usize| -> f64 {
        let (k, l) = middle(q);
        let term = |p: usize| {
            let (i, j) = middle(p);
            let (sin, cos) = (2.0 * PI * (i * k / h as f64 + j * l / w as f64)).sin_cos();
            f64::from(y[p * shape.c + channel]) * (cos + sin)
        };
        (0..h * w).map(term).sum::<f64>() / ((h * w) as f64).sqrt()
    };
    (0..h * w).map(value).collect()
}
