//! Phase retrieval: the moduli of an image's Fourier transform.

use super::contract::Operator;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::ops::axis_filter::Axis;
use crate::ops::fourier::{Fourier, LONGEST, Parts};
use crate::ops::modulus::Modulus;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// `A(x) = |F x|` with the centred orthonormal Fourier transform F of x in [-1, 1], surrounded by
/// zeros (Chung et al., DPS, section 4.1). The zeros make the phases recoverable, up to what
/// [`Operator::equivalents`] lists.
#[derive(Debug)]
pub struct PhaseRetrieval {
    /// Zeros on each side of an axis: this share of an eighth of its pixels.
    pub oversampling: f64,
}

pub(super) fn parse(options: &mut Options) -> Result<Arc<dyn Operator>> {
    Ok(Arc::new(PhaseRetrieval { oversampling: options.number("oversampling", 2.0, 0.0..=8.0)? }))
}

impl PhaseRetrieval {
    /// Extent of the measurement of an axis of `n` pixels.
    fn extent(&self, n: usize) -> usize {
        n + 2 * (self.oversampling / 8.0 * n as f64) as usize
    }
}

impl Operator for PhaseRetrieval {
    fn task(&self) -> String {
        format!("phase-retrieval:oversampling={}", self.oversampling)
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { h: self.extent(x.h), w: self.extent(x.w), ..x }
    }
    fn image_shape(&self, y: Shape) -> Shape {
        // The extents grow with n, so the first that is large enough is the only one that may fit.
        let [h, w] = [y.h, y.w].map(|m| (1..=m).find(|&n| self.extent(n) >= m).unwrap_or(m));
        Shape { h, w, ..y }
    }
    fn check(&self, x: Shape) -> Result<()> {
        let longest = self.extent(x.h.max(x.w));
        if longest <= LONGEST {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{}: the transform has {longest} values a line, at most {LONGEST} work",
            self.task()
        )))
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let y = self.measurement_shape(g.shape(x));
        let rows = Fourier { axis: Axis::Height, extent: y.h, inverse: false, from: Parts::Real, to: Parts::Complex };
        let columns = Fourier { axis: Axis::Width, extent: y.w, from: Parts::Complex, ..rows };
        let x = g.one(rows, "operator.fourier.rows", &[x])?;
        let x = g.one(columns, "operator.fourier.columns", &[x])?;
        g.one(Modulus, "operator.modulus", &[x])
    }
    fn is_linear(&self) -> bool {
        false
    }
    fn measures_pictures(&self) -> bool {
        false
    }

    /// The logarithms of the moduli, from the smallest that counts (black) to the largest (white).
    fn picture(&self, y: &[f32], shape: Shape) -> Picture {
        let largest = y.iter().fold(1e-6f32, |m, &v| m.max(v));
        // Five powers of ten.
        let shade = |v: f32| 2.0 * (1.0 + (v / largest).max(1e-5).log10() / 5.0) - 1.0;
        Picture { width: shape.w, height: shape.h, values: y.iter().map(|&v| shade(v)).collect() }
    }

    fn naive(&self, _: &[f32], _: &[f32], x: Shape) -> Option<(&'static str, Picture)> {
        Some(("grey", Picture { width: x.w, height: x.h, values: vec![0.0; x.item()] }))
    }

    fn restarts(&self) -> u32 {
        4
    }

    /// The image turned by 180 degrees, and the negatives of both: the modulus of the spectrum does
    /// not change.
    fn equivalents(&self, x: &Picture) -> Vec<(&'static str, Picture)> {
        let with = |values: Vec<f32>| Picture { values, ..x.clone() };
        let turned: Vec<f32> = x.values.chunks(3).rev().flatten().copied().collect();
        let negative = |values: &[f32]| values.iter().map(|v| -v).collect();
        vec![
            ("negative", with(negative(&x.values))),
            ("turned by 180 degrees, negative", with(negative(&turned))),
            ("turned by 180 degrees", with(turned)),
        ]
    }
}
