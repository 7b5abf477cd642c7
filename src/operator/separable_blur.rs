//! Blurs that are a blur along the height and one along the width: Gaussian and uniform.

use super::blur::{axis_power, blur_taps, boundary, gaussian_weights, odd, written};
use super::contract::Operator;
use super::spectrum::Spectrum;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
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
    /// What continues the image beyond its border.
    pub boundary: Boundary,
}

/// `A(x)`: the mean over a square.
#[derive(Debug)]
pub struct UniformBlur {
    /// Side of the square in pixels; odd.
    pub size: usize,
    /// What continues the image beyond its border.
    pub boundary: Boundary,
}

/// Taps of a normalised Gaussian along an axis of `n` pixels. It is cut at 4 sigma and at the
/// kernel's size.
pub fn gaussian_taps(n: usize, size: usize, sigma: f64, boundary: Boundary) -> Taps {
    blur_taps(n, &gaussian_weights(size, sigma), boundary)
}

pub(super) fn parse_gaussian(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let (size, sigma) = (odd(options, "size", 61)?, options.number("sigma", 3.0, 0.1..=30.0)?);
    Ok(Arc::new(GaussianBlur { size, sigma, boundary: boundary(options)? }))
}

pub(super) fn parse_uniform(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(UniformBlur { size: odd(options, "size", 9)?, boundary: boundary(options)? }))
}

/// The power per frequency of a separable blur. At a border that the cosine transform does not
/// continue in the same way it is approximate.
fn cosine_spectrum<'a>(maps: impl Fn(Shape) -> [Taps; 2] + 'a) -> Spectrum<'a> {
    Spectrum::cosine(move |x, _| {
        let [rows, columns] = maps(x).map(|taps| axis_power(&taps));
        rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
    })
}

impl GaussianBlur {
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| gaussian_taps(n, self.size, self.sigma, self.boundary))
    }
}

impl Operator for GaussianBlur {
    fn task(&self) -> String {
        format!("gaussian-blur:size={},sigma={}{}", self.size, self.sigma, written(self.boundary))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(cosine_spectrum(|x| self.maps(x)))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| self.maps(x)))
    }
}

impl UniformBlur {
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| blur_taps(n, &vec![1.0 / self.size as f64; self.size], self.boundary))
    }
}

impl Operator for UniformBlur {
    fn task(&self) -> String {
        format!("uniform-blur:size={}{}", self.size, written(self.boundary))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(cosine_spectrum(|x| self.maps(x)))
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| self.maps(x)))
    }
}
