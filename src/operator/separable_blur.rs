//! Blurs that are a blur along the height and one along the width: Gaussian and uniform.

use super::blur::{axis_power, blur_taps, boundary, gaussian_weights, kernel_spectrum, odd, written};
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

/// `A(x)`: a blur by a kernel that is a product of one along the height and one along the width.
#[derive(Debug)]
pub struct SeparableBlur {
    /// The kernel along either axis.
    pub kernel: AxisKernel,
    /// Its size in pixels; odd.
    pub size: usize,
    /// What continues the image beyond its border. None if y is only where the whole kernel lies
    /// inside.
    pub boundary: Option<Boundary>,
}

/// The kernel of a blur along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum AxisKernel {
    /// A Gaussian with this standard deviation in pixels, cut at 4 of them.
    Gaussian(f64),
    /// The mean.
    Uniform,
}

pub(super) fn parse_gaussian(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let size = odd(options, "size", 61)?;
    let kernel = AxisKernel::Gaussian(options.number("sigma", 3.0, 0.1..=30.0)?);
    Ok(Arc::new(SeparableBlur { kernel, size, boundary: boundary(options)? }))
}

pub(super) fn parse_uniform(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let size = odd(options, "size", 9)?;
    Ok(Arc::new(SeparableBlur { kernel: AxisKernel::Uniform, size, boundary: boundary(options)? }))
}

impl SeparableBlur {
    /// Weights of the kernel along an axis; they sum to 1.
    fn weights(&self) -> Vec<f64> {
        match self.kernel {
            AxisKernel::Gaussian(sigma) => gaussian_weights(self.size, sigma),
            AxisKernel::Uniform => vec![1.0 / self.size as f64; self.size],
        }
    }

    /// Pixels that an axis loses.
    fn lost(&self) -> usize {
        if self.boundary.is_some() { 0 } else { self.weights().len() - 1 }
    }

    /// The map along an axis of `n` pixels.
    pub fn map(&self, n: usize) -> Taps {
        blur_taps(n, &self.weights(), self.boundary)
    }

    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| self.map(n))
    }
}

impl Operator for SeparableBlur {
    fn task(&self) -> String {
        let end = written(self.boundary);
        match self.kernel {
            AxisKernel::Gaussian(sigma) => format!("gaussian-blur:size={},sigma={sigma}{end}", self.size),
            AxisKernel::Uniform => format!("uniform-blur:size={}{end}", self.size),
        }
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
        Err(Error::Invalid(format!(
            "{}: no pixel of an image of {}x{} has the whole kernel around it; choose a smaller one",
            self.task(),
            x.w,
            x.h
        )))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }

    /// In the cosine transform, approximate at a border that the transform does not continue in the
    /// same way. Without a boundary y is smaller than x, and has the singular vectors only.
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        match self.boundary {
            Some(Boundary::Reflect) => Some(Spectrum::cosine(|x, _| {
                let [rows, columns] = self.maps(x).map(|taps| axis_power(&taps));
                rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
            })),
            Some(Boundary::Circular) => {
                let weights = self.weights();
                let kernel = weights.iter().flat_map(|r| weights.iter().map(move |c| (r * c) as f32));
                let (kernel, size) = (kernel.collect::<Vec<f32>>(), weights.len());
                Some(kernel_spectrum(Boundary::Circular, size, move |_| kernel.clone().into()))
            }
            None => self.singular_spectrum(),
        }
    }
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        match self.boundary {
            Some(Boundary::Circular) => self.spectrum(),
            _ => Some(Spectrum::separable(|x| self.maps(x))),
        }
    }

    /// Without a boundary y lies in the middle, and its edge is repeated around it.
    fn naive(&self, y: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        if self.boundary.is_some() {
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
