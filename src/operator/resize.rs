//! Super-resolution by the anti-aliased cubic resize that the papers of this field use.

use super::contract::Operator;
use super::spectrum::Spectrum;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Taps;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x)`: anti-aliased cubic down-sampling by a whole factor, with `4 factor` taps per axis.
#[derive(Debug)]
pub struct SuperResolution {
    /// Down-sampling factor of height and width.
    pub factor: usize,
}

/// Keys' cubic kernel with a = -1/2.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x <= 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
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
        let mut row: Vec<(usize, f32)> = Vec::new();
        for (j, w) in weights.into_iter().filter(|(_, w)| *w != 0.0) {
            let around = j.rem_euclid(2 * inputs as isize) as usize;
            let j = if around < inputs { around } else { 2 * inputs - 1 - around };
            let w = (w / total) as f32;
            match row.iter_mut().find(|r| r.0 == j) {
                Some(r) => r.1 += w,
                None => row.push((j, w)),
            }
        }
        row
    });
    Taps { rows: rows.collect(), inputs }
}

/// Resizes a picture with [`cubic_taps`] along both axes. Values are not clamped.
pub fn resize_cubic(x: &Picture, height: usize, width: usize) -> Picture {
    let rows = cubic_taps(x.height, height, height as f64 / x.height as f64);
    let columns = cubic_taps(x.width, width, width as f64 / x.width as f64);
    let mut narrow = vec![0f32; x.height * width * 3];
    for i in 0..x.height {
        for (j, taps) in columns.rows.iter().enumerate() {
            for c in 0..3 {
                narrow[(i * width + j) * 3 + c] =
                    taps.iter().map(|&(k, w)| w * x.values[(i * x.width + k) * 3 + c]).sum();
            }
        }
    }
    let mut values = vec![0f32; height * width * 3];
    for (i, taps) in rows.rows.iter().enumerate() {
        let out = &mut values[i * width * 3..(i + 1) * width * 3];
        for &(k, w) in taps {
            out.iter_mut().zip(&narrow[k * width * 3..]).for_each(|(o, v)| *o += w * v);
        }
    }
    Picture { width, height, values }
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let factor = options.text("factor").and_then(|f| f.parse().ok()).filter(|f| (2..=64).contains(f));
    let factor = factor.ok_or_else(|| options.error("write sr with a factor from 2 to 64, such as sr4"))?;
    Ok(Arc::new(SuperResolution { factor }))
}

impl SuperResolution {
    /// The maps along height and width of images of shape `x`.
    fn maps(&self, x: Shape) -> [Taps; 2] {
        [x.h, x.w].map(|n| cubic_taps(n, n.div_ceil(self.factor), 1.0 / self.factor as f64))
    }
}

impl Operator for SuperResolution {
    fn task(&self) -> String {
        format!("sr{}", self.factor)
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { h: x.h.div_ceil(self.factor), w: x.w.div_ceil(self.factor), ..x }
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
