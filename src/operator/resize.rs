//! Super-resolution: images are made smaller by a whole factor.

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

/// `A(x)`: down-sampling by a whole factor.
#[derive(Debug)]
pub struct SuperResolution {
    /// Down-sampling factor of height and width.
    pub factor: usize,
    /// How a pixel follows from those around it.
    pub form: Resize,
}

/// Forms of down-sampling. They differ at the border, and some also within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resize {
    /// The anti-aliased cubic resize of MATLAB and of the papers of this field, [`cubic_taps`].
    Cubic,
    /// PyTorch's `interpolate` with `mode="bicubic", antialias=True`: at the border the taps that
    /// lie outside are left out.
    PyTorch,
    /// The same without `antialias`: four taps of the kernel with a = -3/4, and the edge repeated.
    PyTorchAliased,
    /// deepinv's `Downsampling` with its bicubic filter: `4 factor` taps around the middle of the
    /// first two pixels of every square, and the other side of the image beyond the border.
    Deepinv,
    /// The mean over squares of `factor` pixels. At the end of an axis a part of a square is left
    /// out.
    Average,
}

/// Keys' cubic kernel; a is its slope at 1.
fn keys(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x <= 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// Keys' cubic kernel with a = -1/2.
fn cubic(x: f64) -> f64 {
    keys(x, -0.5)
}

/// A row of taps of these weights; those at one position are added up.
fn added_up(weights: impl IntoIterator<Item = (usize, f64)>) -> Vec<(usize, f32)> {
    let mut row: Vec<(usize, f32)> = Vec::new();
    for (j, w) in weights {
        match row.iter_mut().find(|r| r.0 == j) {
            Some(r) => r.1 += w as f32,
            None => row.push((j, w as f32)),
        }
    }
    row
}

impl Resize {
    /// Number of positions that `inputs` positions give.
    fn outputs(self, inputs: usize, factor: usize) -> usize {
        match self {
            Resize::Cubic => inputs.div_ceil(factor),
            Resize::PyTorch | Resize::PyTorchAliased | Resize::Deepinv | Resize::Average => inputs / factor,
        }
    }

    fn taps(self, inputs: usize, factor: usize) -> Taps {
        let (outputs, scale) = (self.outputs(inputs, factor), factor as f64);
        let aliased = |o: usize| {
            let centre = scale * (o as f64 + 0.5) - 0.5;
            let first = centre.floor() as isize - 1;
            let edge = |j: isize| j.clamp(0, inputs as isize - 1) as usize;
            added_up((first..first + 4).map(|j| (edge(j), keys(centre - j as f64, -0.75))))
        };
        let anti_aliased = |o: usize| {
            let centre = scale * (o as f64 + 0.5);
            let first = (centre - 2.0 * scale + 0.5).max(0.0) as usize;
            let end = ((centre + 2.0 * scale + 0.5) as usize).min(inputs);
            let weight = |j: usize| cubic((j as f64 - centre + 0.5) / scale);
            let total: f64 = (first..end).map(weight).sum();
            (first..end).map(|j| (j, (weight(j) / total) as f32)).collect()
        };
        let circular = |o: usize| {
            let offsets = 1 - 2 * factor as isize..=2 * factor as isize;
            let weight = |d: isize| cubic((d as f64 - 0.5) / scale);
            let total: f64 = offsets.clone().map(weight).sum();
            let place = |d: isize| Boundary::Circular.source((o * factor) as isize + d, inputs);
            added_up(offsets.map(|d| (place(d), weight(d) / total)))
        };
        let rows = match self {
            Resize::Cubic => return cubic_taps(inputs, outputs, 1.0 / scale),
            Resize::PyTorch => (0..outputs).map(anti_aliased).collect(),
            Resize::PyTorchAliased => (0..outputs).map(aliased).collect(),
            Resize::Deepinv => (0..outputs).map(circular).collect(),
            Resize::Average => (0..outputs)
                .map(|o| (o * factor..(o + 1) * factor).map(|j| (j, 1.0 / factor as f32)).collect())
                .collect(),
        };
        Taps { rows, inputs }
    }
}

/// Taps that resize `inputs` positions to `outputs` with scale `scale` = outputs / inputs.
///
/// Output position o (from 0) lies at input position `(o + 1/2) / scale - 1/2`. If `scale` is below
/// 1, the kernel k(u) is widened to `scale k(scale u)`. The weights of a position sum to 1. The
/// boundary is reflected with the edge pixel repeated (..1 0 | 0 1..).
pub fn cubic_taps(inputs: usize, outputs: usize, scale: f64) -> Taps {
    let widened = scale.min(1.0);
    let width = 4.0 / widened;
    let rows = (0..outputs).map(|o| {
        let centre = (o as f64 + 0.5) / scale - 0.5;
        let left = (centre - width / 2.0).floor() as isize;
        let candidates = left..left + width.ceil() as isize + 2;
        let weights: Vec<(isize, f64)> =
            candidates.map(|j| (j, widened * cubic(widened * (centre - j as f64)))).collect();
        let total: f64 = weights.iter().map(|w| w.1).sum();
        let mirrored = |j: isize| {
            let around = j.rem_euclid(2 * inputs as isize) as usize;
            if around < inputs { around } else { 2 * inputs - 1 - around }
        };
        added_up(weights.into_iter().filter(|(_, w)| *w != 0.0).map(|(j, w)| (mirrored(j), w / total)))
    });
    Taps { rows: rows.collect(), inputs }
}

/// Resizes a picture with [`cubic_taps`] along both axes. Values are not clamped.
pub fn resize_cubic(x: &Picture, height: usize, width: usize) -> Picture {
    let rows = cubic_taps(x.height, height, height as f64 / x.height as f64);
    let columns = cubic_taps(x.width, width, width as f64 / x.width as f64);
    x.along_axes(&rows.rows, &columns.rows)
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let factor = options.text("factor").and_then(|f| f.parse().ok()).filter(|f| (2..=64).contains(f));
    let factor = factor.ok_or_else(|| options.error("write sr with a factor from 2 to 64, such as sr4"))?;
    Ok(Arc::new(SuperResolution { factor, form: Resize::Cubic }))
}

pub(super) fn parse_average(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(SuperResolution { factor: options.count("factor", 4, 2..=64)?, form: Resize::Average }))
}

pub(super) fn parse_bicubic(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let factor = options.count("factor", 4, 2..=64)?;
    let forms = [Resize::PyTorch, Resize::PyTorchAliased, Resize::Cubic, Resize::Deepinv];
    let form = forms[options.choice("like", &["pytorch", "pytorch-aliased", "matlab", "deepinv"])?];
    Ok(Arc::new(SuperResolution { factor, form }))
}

impl SuperResolution {
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| self.form.taps(n, self.factor))
    }
}

impl Operator for SuperResolution {
    fn task(&self) -> String {
        let factor = self.factor;
        match self.form {
            Resize::Cubic => format!("sr{factor}"),
            Resize::Average => format!("sr-average:factor={factor}"),
            Resize::PyTorch => format!("sr-bicubic:factor={factor},like=pytorch"),
            Resize::PyTorchAliased => format!("sr-bicubic:factor={factor},like=pytorch-aliased"),
            Resize::Deepinv => format!("sr-bicubic:factor={factor},like=deepinv"),
        }
    }
    fn check(&self, x: Shape) -> Result<()> {
        let y = self.measurement_shape(x);
        if y.h.min(y.w) > 0 {
            return Ok(());
        }
        Err(Error::Invalid(format!("{}: an image of {}x{} pixels is too small", self.task(), x.w, x.h)))
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        let [h, w] = [x.h, x.w].map(|n| self.form.outputs(n, self.factor));
        Shape { h, w, ..x }
    }
    fn image_shape(&self, y: Shape) -> Shape {
        Shape { h: y.h * self.factor, w: y.w * self.factor, ..y }
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        g.along_axes("operator", x, self.maps(g.shape(x)).map(Arc::new))
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| self.maps(x)))
    }
}
