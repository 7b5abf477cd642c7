//! Blurs that are a blur along the height and one along the width: Gaussian and uniform.

use super::blur::{axis_power, blur_taps, gaussian_weights, odd, written};
use super::contract::Operator;
use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Taps;
use crate::ops::filter2d::Boundary;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x)`: a Gaussian blur, cut at 4 sigma.
#[derive(Debug)]
pub struct GaussianBlur {
    /// Kernel size in pixels; odd.
    pub size: usize,
    /// Standard deviation in pixels.
    pub sigma: f64,
    /// What continues the image beyond its border. None if y is only where the whole kernel lies
    /// inside.
    pub boundary: Option<Boundary>,
}

/// `A(x)`: the mean over a square.
#[derive(Debug)]
pub struct UniformBlur {
    /// Side of the square in pixels; odd.
    pub size: usize,
    /// What continues the image beyond its border. None if y is only where the whole kernel lies
    /// inside.
    pub boundary: Option<Boundary>,
}

/// Taps of a normalised Gaussian along an axis of `n` pixels. It is cut at 4 sigma and at the
/// kernel's size.
pub fn gaussian_taps(n: usize, size: usize, sigma: f64, boundary: Option<Boundary>) -> Taps {
    blur_taps(n, &gaussian_weights(size, sigma), boundary)
}

pub(super) fn parse_gaussian(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let (size, sigma) = (odd(options, "size", 61)?, options.number("sigma", 3.0, 0.1..=30.0)?);
    Ok(Arc::new(GaussianBlur { size, sigma, boundary: any_boundary(options)? }))
}

pub(super) fn parse_uniform(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(UniformBlur { size: odd(options, "size", 9)?, boundary: any_boundary(options)? }))
}

/// The option `boundary`.
fn any_boundary(options: &mut Options) -> Result<Option<Boundary>> {
    let choices = [Some(Boundary::Reflect), Some(Boundary::Circular), None];
    Ok(choices[options.choice("boundary", &["reflect", "circular", "valid"])?])
}

/// The end of a task's text.
fn written_any(boundary: Option<Boundary>) -> &'static str {
    boundary.map_or(",boundary=valid", written)
}

/// The power per frequency of a separable blur. At a border that the cosine transform does not
/// continue in the same way it is approximate. A blur without a boundary has no square map, and its
/// singular values in place of frequencies.
fn blur_spectrum<'a>(boundary: Option<Boundary>, maps: impl Fn(Shape) -> [Taps; 2] + 'a) -> Spectrum<'a> {
    if boundary.is_none() {
        return Spectrum::separable(maps);
    }
    Spectrum::cosine(move |x, _| {
        let [rows, columns] = maps(x).map(|taps| axis_power(&taps));
        rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
    })
}

/// What both blurs are: a kernel of an axis and a boundary.
trait Separable: std::fmt::Debug + Send + Sync {
    fn task(&self) -> String;
    /// Weights of the kernel along an axis.
    fn weights(&self) -> Vec<f64>;
    fn boundary(&self) -> Option<Boundary>;

    /// Pixels that an axis loses.
    fn lost(&self) -> usize {
        if self.boundary().is_some() { 0 } else { self.weights().len() - 1 }
    }
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| blur_taps(n, &self.weights(), self.boundary()))
    }
}

impl Separable for GaussianBlur {
    fn task(&self) -> String {
        format!("gaussian-blur:size={},sigma={}{}", self.size, self.sigma, written_any(self.boundary))
    }
    fn weights(&self) -> Vec<f64> {
        gaussian_weights(self.size, self.sigma)
    }
    fn boundary(&self) -> Option<Boundary> {
        self.boundary
    }
}

impl Separable for UniformBlur {
    fn task(&self) -> String {
        format!("uniform-blur:size={}{}", self.size, written_any(self.boundary))
    }
    fn weights(&self) -> Vec<f64> {
        vec![1.0 / self.size as f64; self.size]
    }
    fn boundary(&self) -> Option<Boundary> {
        self.boundary
    }
}

impl<B: Separable> Operator for B {
    fn task(&self) -> String {
        Separable::task(self)
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        let [h, w] = [x.h, x.w].map(|n| n.saturating_sub(self.lost()));
        Shape { h, w, ..x }
    }
    fn image_shape(&self, y: Shape) -> Shape {
        Shape { h: y.h + self.lost(), w: y.w + self.lost(), ..y }
    }
    fn check(&self, x: Shape) -> Result<()> {
        if self.lost() < x.h.min(x.w) {
            return Ok(());
        }
        let task = Separable::task(self);
        Err(Error::Invalid(format!(
            "{task}: no pixel of an image of {}x{} has the whole kernel around it; choose a smaller one",
            x.w, x.h
        )))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(blur_spectrum(self.boundary(), |x| self.maps(x)))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| self.maps(x)))
    }

    /// Without a boundary y lies in the middle, and its edge is repeated around it.
    fn naive(&self, y: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        if self.boundary().is_some() {
            return None;
        }
        let small = self.measurement_shape(x);
        let edge = |n: usize| {
            let last = n - self.lost() - 1;
            (0..n).map(|i| vec![(i.saturating_sub(self.lost() / 2).min(last), 1.0)]).collect::<Vec<_>>()
        };
        let y = Picture { width: small.w, height: small.h, values: y.to_vec() };
        Some(("measurement", y.along_axes(&edge(x.h), &edge(x.w))))
    }
}
