//! Blurs by a kernel of two dimensions: motion blur, and Gaussians that differ along two directions.

use super::blur::{self, kernel_spectrum, odd, written};
use super::contract::{Operator, StateOrigin};
use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::read_grey;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::ops::filter2d::{Boundary, Filter2d};
use crate::options::Options;
use crate::tensor::Shape;
use std::f64::consts::PI;
use std::sync::Arc;

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
    /// What continues the image beyond its border.
    pub boundary: Boundary,
}

/// `A(x)`: a blur by a Gaussian with one standard deviation along a direction and another across it.
#[derive(Debug)]
pub struct AnisotropicBlur {
    /// Kernel size in pixels; odd.
    pub size: usize,
    /// Standard deviation along the direction, in pixels.
    pub sigma: f64,
    /// Standard deviation across it, in pixels.
    pub across: f64,
    /// The direction in degrees, from the width counter-clockwise.
    pub angle: f64,
    /// What continues the image beyond its border.
    pub boundary: Boundary,
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

/// Fails if a kernel of `size` pixels is too large for images of shape `x`.
fn check_size(operator: &dyn Operator, size: usize, x: Shape) -> Result<()> {
    if size / 2 < x.h.min(x.w) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{}: the kernel is too large for an image of {}x{} pixels; choose a smaller size",
        operator.task(),
        x.w,
        x.h
    )))
}

/// The option `boundary`, of a kernel of two dimensions.
fn boundary(options: &mut Options) -> Result<Boundary> {
    let valid = "boundary=valid is for gaussian-blur and uniform-blur; reflect and circular are possible";
    blur::boundary(options)?.ok_or_else(|| options.error(valid))
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
        let (kernel, boundary) = (Some((file, values)), boundary(options)?);
        return Ok(Arc::new(MotionBlur { size: width, length: 0.0, spread: 0.0, kernel, boundary }));
    }
    let size = odd(options, "size", 61)?;
    let length = options.number("length", 0.5, 0.0..=2.0)?;
    let spread = options.number("spread", 0.6, 0.0..=10.0)?;
    Ok(Arc::new(MotionBlur { size, length, spread, kernel: None, boundary: boundary(options)? }))
}

pub(super) fn parse_anisotropic(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(AnisotropicBlur {
        size: odd(options, "size", 9)?,
        sigma: options.number("sigma", 20.0, 0.1..=100.0)?,
        across: options.number("across", 1.0, 0.1..=100.0)?,
        angle: options.number("angle", 0.0, -360.0..=360.0)?,
        boundary: boundary(options)?,
    }))
}

impl AnisotropicBlur {
    /// The kernel, (size, size) values that sum to 1.
    fn kernel(&self) -> Vec<f32> {
        let (sin, cos) = self.angle.to_radians().sin_cos();
        let centre = (self.size / 2) as f64;
        let value = |k: usize| {
            // Rows run downwards, angles upwards.
            let (up, right) = (centre - (k / self.size) as f64, (k % self.size) as f64 - centre);
            let (along, across) = (cos * right + sin * up, cos * up - sin * right);
            (-0.5 * ((along / self.sigma).powi(2) + (across / self.across).powi(2))).exp()
        };
        let values: Vec<f64> = (0..self.size * self.size).map(value).collect();
        let total: f64 = values.iter().sum();
        values.into_iter().map(|v| (v / total) as f32).collect()
    }
}

impl Operator for AnisotropicBlur {
    fn task(&self) -> String {
        format!(
            "anisotropic-blur:size={},sigma={},across={},angle={}{}",
            self.size,
            self.sigma,
            self.across,
            self.angle,
            written(Some(self.boundary))
        )
    }
    fn check(&self, x: Shape) -> Result<()> {
        check_size(self, self.size, x)
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let shape = Shape::new(g.shape(x).n, self.size, self.size, 1);
        let kernel = g.constant("kernel", shape, self.kernel().repeat(shape.n));
        g.one(Filter2d { boundary: self.boundary }, "operator.blur", &[x, kernel])
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(kernel_spectrum(self.boundary, self.size, |_| self.kernel().into()))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        self.spectrum().filter(|_| self.boundary == Boundary::Circular)
    }
}

impl Operator for MotionBlur {
    fn task(&self) -> String {
        let options = match &self.kernel {
            Some((file, _)) => format!("kernel={file}"),
            None => format!("size={},length={},spread={}", self.size, self.length, self.spread),
        };
        format!("motion-blur:{options}{}", written(Some(self.boundary)))
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape::new(x.n, self.size, self.size, 1))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(kernel_spectrum(self.boundary, self.size, |kernel| kernel.into()))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        self.spectrum().filter(|_| self.boundary == Boundary::Circular)
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
            None => StateOrigin::Drawn { given: Some("motion-blur:kernel=FILE") },
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
        check_size(self, self.size, x)
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let kernel = state.ok_or_else(|| Error::Invalid("motion blur needs its kernel".into()))?;
        g.one(Filter2d { boundary: self.boundary }, "operator.blur", &[x, kernel])
    }
}
