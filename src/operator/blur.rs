//! Gaussian and motion blur. The image is reflected at the boundary without repeating the edge
//! pixel.

use super::contract::{Operator, StateOrigin};
use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::read_grey;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::ops::axis_filter::Taps;
use crate::ops::filter2d::Filter2d;
use crate::options::Options;
use crate::tensor::Shape;
use num_complex::Complex64;
use std::f64::consts::PI;
use std::sync::Arc;

/// `A(x)`: a separable Gaussian blur.
#[derive(Debug)]
pub struct GaussianBlur {
    /// Kernel size in pixels; odd.
    pub size: usize,
    /// Standard deviation in pixels.
    pub sigma: f64,
}

/// `A(x)`: a blur along a motion path, or by the kernel of a file.
#[derive(Debug)]
pub struct MotionBlur {
    /// Kernel size in pixels; odd.
    pub size: usize,
    /// Length of the path as a multiple of the kernel size.
    pub length: f64,
    /// Standard deviation of the path's direction at its end, in radians.
    pub spread: f64,
    /// The file of a point spread function, and the kernel (size, size) that x is correlated with:
    /// the file's picture turned by 180 degrees. None if the kernel is drawn.
    pub kernel: Option<(String, Vec<f32>)>,
}

/// Taps of a normalised Gaussian along an axis of `n` pixels. It is cut at 4 sigma and at the
/// kernel's size, and reflects at the boundary without repeating the edge pixel.
pub fn gaussian_taps(n: usize, size: usize, sigma: f64) -> Taps {
    let radius = ((4.0 * sigma + 0.5) as usize).min(size / 2) as isize;
    let weight = |d: isize| (-0.5 * (d as f64 / sigma).powi(2)).exp();
    let total: f64 = (-radius..=radius).map(weight).sum();
    let row = |i: usize| {
        let mut row: Vec<(usize, f32)> = Vec::new();
        for d in -radius..=radius {
            let period = 2 * (n as isize - 1);
            let around = if n == 1 { 0 } else { (i as isize + d).rem_euclid(period) };
            let j = if around < n as isize { around } else { period - around } as usize;
            let w = (weight(d) / total) as f32;
            match row.iter_mut().find(|r| r.0 == j) {
                Some(r) => r.1 += w,
                None => row.push((j, w)),
            }
        }
        row
    };
    Taps { rows: (0..n).map(row).collect(), inputs: n }
}

/// A random motion path as a kernel of `size` x `size` values that sum to 1, with its centre of
/// mass in the middle.
pub fn motion_kernel(size: usize, length: f64, spread: f64, seed: u64) -> Vec<f32> {
    let mut random = Stream::new(NoiseKey { seed, image: 0, step: 0, draw: Draw::Operator });
    let points = 40 * size;
    let step = length * size as f64 / points as f64;
    // The direction of the path is a random walk with standard deviation `spread` at its end. Now
    // and then it turns sharply, as a shaken camera does.
    let mut angle = std::f64::consts::TAU * random.uniform();
    let mut at = (0.0, 0.0);
    let mut path = Vec::with_capacity(points);
    for _ in 0..points {
        angle += spread * random.normal() * (4.0 / points as f64).sqrt();
        if random.uniform() < 2.0 * spread / points as f64 {
            angle += PI * (random.uniform() - 0.5);
        }
        at = (at.0 + step * angle.cos(), at.1 + step * angle.sin());
        path.push(at);
    }
    let mean = |f: fn(&(f64, f64)) -> f64| path.iter().map(f).sum::<f64>() / points as f64;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let centre = (size / 2) as f64;
    let limit = centre - 1.0;
    let mut kernel = vec![0f64; size * size];
    for (x, y) in path {
        let x = (x - mx).clamp(-limit, limit) + centre;
        let y = (y - my).clamp(-limit, limit) + centre;
        // Each point is divided among the four pixels around it, with bilinear weights.
        let (x0, y0) = (x.floor(), y.floor());
        for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            let share = (1.0 - (x - x0 - dx).abs()) * (1.0 - (y - y0 - dy).abs());
            let i = (y0 + dy) as usize * size + (x0 + dx) as usize;
            if share > 0.0 && i < kernel.len() {
                kernel[i] += share / points as f64;
            }
        }
    }
    kernel.iter().map(|&v| v as f32).collect()
}

/// |A|^2 of a blur along one axis at the frequencies of the cosine transform: `|| A^T c_k ||^2`.
fn axis_power(taps: &Taps) -> Vec<f64> {
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
    let columns = waves(x.w);
    let along_rows: Vec<Vec<Complex64>> = (kernel.chunks(size))
        .map(|row| columns.iter().map(|w| w.iter().zip(row).map(|(w, &v)| w * f64::from(v)).sum()).collect())
        .collect();
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

pub(super) fn parse_gaussian(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let size = odd(options, "size", 61)?;
    let sigma = options.number("sigma", 3.0, 0.1..=30.0)?;
    Ok(Arc::new(GaussianBlur { size, sigma }))
}

pub(super) fn parse_motion(options: &mut Options) -> Result<Arc<dyn Operator>> {
    if let Some(file) = options.text("kernel") {
        let (width, height, mut values) = read_grey(file.as_ref())?;
        if width != height || width % 2 == 0 || width > 255 {
            let reason = format!("a kernel picture is square with an odd side up to 255, this one is {width}x{height}");
            return Err(Error::Image { path: file.into(), reason });
        }
        let total: f32 = values.iter().sum();
        if total <= 0.0 {
            return Err(Error::Image { path: file.into(), reason: "the kernel is black everywhere".into() });
        }
        values.iter_mut().for_each(|v| *v /= total);
        // The file shows the image of a point, so x is convolved with it. That is a correlation
        // with the picture turned by 180 degrees.
        values.reverse();
        return Ok(Arc::new(MotionBlur { size: width, length: 0.0, spread: 0.0, kernel: Some((file, values)) }));
    }
    let size = odd(options, "size", 61)?;
    let length = options.number("length", 0.5, 0.0..=2.0)?;
    let spread = options.number("spread", 0.6, 0.0..=10.0)?;
    Ok(Arc::new(MotionBlur { size, length, spread, kernel: None }))
}

fn odd(options: &mut Options, key: &str, default: usize) -> Result<usize> {
    match options.number(key, default as f64, 3.0..=255.0)? as usize {
        size if size % 2 == 0 => Err(options.error(&format!("{key} is {size}, expected an odd number"))),
        size => Ok(size),
    }
}

impl GaussianBlur {
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| gaussian_taps(n, self.size, self.sigma))
    }
}

impl Operator for GaussianBlur {
    fn task(&self) -> String {
        format!("gaussian-blur:size={},sigma={}", self.size, self.sigma)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::cosine(|x, _| {
            let [rows, columns] = self.maps(x).map(|taps| axis_power(&taps));
            rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
        }))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| self.maps(x)))
    }
}

impl Operator for MotionBlur {
    fn task(&self) -> String {
        match &self.kernel {
            Some((file, _)) => format!("motion-blur:kernel={file}"),
            None => format!("motion-blur:size={},length={},spread={}", self.size, self.length, self.spread),
        }
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape::new(x.n, self.size, self.size, 1))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::cosine(|x, kernel| kernel_power(x, kernel, self.size)))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        None
    }
    fn draw_state(&self, _: Shape, seed: u64) -> Result<Vec<f32>> {
        Ok(match &self.kernel {
            Some((_, values)) => values.clone(),
            None => motion_kernel(self.size, self.length, self.spread, seed),
        })
    }
    fn state_origin(&self) -> StateOrigin<'_> {
        match &self.kernel {
            Some((file, _)) => StateOrigin::File(file.as_ref()),
            None => StateOrigin::Drawn { given: "motion-blur:kernel=FILE" },
        }
    }
    fn check_state(&self, _: Shape, kernel: &[f32]) -> Result<()> {
        let (total, size) = kernel.iter().fold((0.0, 0.0), |(t, s), &v| (t + f64::from(v), s + f64::from(v.abs())));
        if (total - 1.0).abs() <= 0.01 && size <= 100.0 {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the values of the blur kernel add up to {total}, their magnitudes to {size}; a kernel adds up to 1"
        )))
    }
    fn check(&self, x: Shape) -> Result<()> {
        if self.size / 2 < x.h.min(x.w) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{}: the kernel is too large for an image of {}x{} pixels; choose a smaller size",
            self.task(),
            x.w,
            x.h
        )))
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let kernel = state.ok_or_else(|| Error::Invalid("motion blur needs its kernel".into()))?;
        g.one(Filter2d, "operator.blur", &[x, kernel])
    }
}
