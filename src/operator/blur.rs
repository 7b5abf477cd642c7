//! What blurs share: their boundary, their taps along an axis, and their power per frequency.

use super::spectrum::Spectrum;
use crate::error::Result;
use crate::ops::axis_filter::Taps;
use crate::ops::filter2d::Boundary;
use crate::options::Options;
use crate::tensor::Shape;
use num_complex::Complex64;
use std::borrow::Cow;
use std::f64::consts::PI;

/// Taps of a blur along an axis of `n` pixels: the weights, an odd number, belong to the offsets
/// around a pixel. Without a boundary there are only the pixels around which all weights lie inside.
pub(super) fn blur_taps(n: usize, weights: &[f64], boundary: Option<Boundary>) -> Taps {
    let radius = (weights.len() / 2) as isize;
    let row = |i: usize| {
        let mut row: Vec<(usize, f32)> = Vec::new();
        for (offset, &weight) in (-radius..).zip(weights) {
            let j = match boundary {
                Some(boundary) => boundary.source(i as isize + offset, n),
                None => (i as isize + offset + radius) as usize,
            };
            match row.iter_mut().find(|r| r.0 == j) {
                Some(r) => r.1 += weight as f32,
                None => row.push((j, weight as f32)),
            }
        }
        row
    };
    let outputs = if boundary.is_some() { n } else { n.saturating_sub(2 * radius as usize) };
    Taps { rows: (0..outputs).map(row).collect(), inputs: n }
}

/// Weights of a normalised Gaussian, cut at 4 sigma and at `size`, an odd number of pixels.
pub(super) fn gaussian_weights(size: usize, sigma: f64) -> Vec<f64> {
    let radius = ((4.0 * sigma + 0.5) as usize).min(size / 2) as isize;
    let weights: Vec<f64> = (-radius..=radius).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// |A|^2 of a blur along one axis at the frequencies of the cosine transform: `|| A^T c_k ||^2`.
pub(super) fn axis_power(taps: &Taps) -> Vec<f64> {
    let back = taps.transposed();
    let norm = |c: &[(usize, f32)]| {
        let square = |row: &Vec<(usize, f32)>| row.iter().map(|&(i, w)| f64::from(w * c[i].1)).sum::<f64>().powi(2);
        back.rows.iter().map(square).sum()
    };
    Taps::cosine_transform(taps.rows.len()).rows.iter().map(|c| norm(c)).collect()
}

/// |A|^2 of a blur by a `size` x `size` kernel, at the h w frequencies of the cosine transform of
/// images of shape `x`. A cosine contains the frequency (k, l) and its mirror (k, -l). A kernel
/// without symmetry attenuates them differently, so the mean of both is taken.
fn kernel_power(x: Shape, kernel: &[f32], size: usize) -> Vec<f64> {
    // exp(-i pi k j / n) at [k][j]
    let waves = |n: usize| -> Vec<Vec<Complex64>> {
        let wave = |k: usize, j: usize| Complex64::from_polar(1.0, -PI * (k * j) as f64 / n as f64);
        (0..n).map(|k| (0..size).map(|j| wave(k, j)).collect()).collect()
    };
    let along_rows = sums_along_rows(kernel, size, &waves(x.w));
    let mut power = Vec::with_capacity(x.h * x.w);
    for wave in waves(x.h) {
        for l in 0..x.w {
            let terms = wave.iter().zip(&along_rows);
            let (this, mirror): (Complex64, Complex64) =
                (terms.clone().map(|(w, row)| *w * row[l]).sum(), terms.map(|(w, row)| w.conj() * row[l]).sum());
            power.push((this.norm_sqr() + mirror.norm_sqr()) / 2.0);
        }
    }
    power
}

/// |A|^2 of a blur by a `size` x `size` kernel that goes on around the edges of the image, at the h
/// w frequencies of the Hartley transform of images of shape `x`.
fn circular_power(x: Shape, kernel: &[f32], size: usize) -> Vec<f64> {
    // exp(-2 pi i (k - n/2) j / n) at [k][j]
    let waves = |n: usize| -> Vec<Vec<Complex64>> {
        let wave = |k: usize, j: usize| {
            Complex64::from_polar(1.0, -2.0 * PI * (k as f64 - (n / 2) as f64) * j as f64 / n as f64)
        };
        (0..n).map(|k| (0..size).map(|j| wave(k, j)).collect()).collect()
    };
    let along_rows = sums_along_rows(kernel, size, &waves(x.w));
    let power = |wave: &Vec<Complex64>, l: usize| -> f64 {
        wave.iter().zip(&along_rows).map(|(w, row)| *w * row[l]).sum::<Complex64>().norm_sqr()
    };
    waves(x.h).iter().flat_map(|wave| (0..x.w).map(|l| power(wave, l)).collect::<Vec<f64>>()).collect()
}

/// For every row of a kernel its sum with each of the waves.
fn sums_along_rows(kernel: &[f32], size: usize, waves: &[Vec<Complex64>]) -> Vec<Vec<Complex64>> {
    let sum = |wave: &Vec<Complex64>, row: &[f32]| wave.iter().zip(row).map(|(w, &v)| w * f64::from(v)).sum();
    kernel.chunks(size).map(|row| waves.iter().map(|wave| sum(wave, row)).collect()).collect()
}

/// The spectrum of a blur by a `size` x `size` kernel: exact where the image goes on around its
/// edges, else approximate, in the cosine transform. `kernel(state)` gives its values.
pub(super) fn kernel_spectrum<'a>(
    boundary: Boundary,
    size: usize,
    kernel: impl for<'s> Fn(&'s [f32]) -> Cow<'s, [f32]> + 'a,
) -> Spectrum<'a> {
    match boundary {
        Boundary::Circular => Spectrum::hartley(move |x, state| circular_power(x, &kernel(state), size)),
        Boundary::Reflect => Spectrum::cosine(move |x, state| kernel_power(x, &kernel(state), size)),
    }
}

/// The option `key`, an odd number of pixels.
pub(super) fn odd(options: &mut Options, key: &str, default: usize) -> Result<usize> {
    match options.number(key, default as f64, 3.0..=255.0)? as usize {
        size if size % 2 == 0 => Err(options.error(&format!("{key} is {size}, expected an odd number"))),
        size => Ok(size),
    }
}

/// The values of the option `boundary`. None: y only where the whole kernel lies inside.
const BOUNDARIES: [(&str, Option<Boundary>); 3] =
    [("reflect", Some(Boundary::Reflect)), ("circular", Some(Boundary::Circular)), ("valid", None)];

/// The option `boundary`.
pub(super) fn boundary(options: &mut Options) -> Result<Option<Boundary>> {
    Ok(BOUNDARIES[options.choice("boundary", &BOUNDARIES.map(|b| b.0))?].1)
}

/// The end of a task's text: nothing for the usual boundary, so that the names of former results
/// stay valid.
pub(super) fn written(boundary: Option<Boundary>) -> String {
    let name = BOUNDARIES.into_iter().skip(1).find(|b| b.1 == boundary);
    name.map_or(String::new(), |(name, _)| format!(",boundary={name}"))
}
