//! An operator described in a transform that makes it diagonal.

use super::singular::{Singular, right_singular};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::axis_filter::Taps;
use crate::tensor::Shape;
use std::cell::RefCell;
use std::sync::Arc;

/// A transform of each channel of an image, (h, w) values, to coefficients in rows and columns. Its
/// rows as a matrix are orthonormal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transform {
    /// The identity: a coefficient is a pixel.
    Pixels,
    /// The cosine transform (DCT-II) along both axes,
    /// [`Taps::cosine_transform`](crate::ops::axis_filter::Taps::cosine_transform): coefficient (k,
    /// l) is the frequency (pi k / h, pi l / w) in radians per pixel.
    Cosine,
    /// The right singular vectors of a map along each axis: coefficient (k, l) belongs to vector k
    /// of the height and l of the width. Of a [separable](Spectrum::separable) operator the vectors
    /// with the largest singular values are first, and there are fewer coefficients than pixels if
    /// the operator sees only a part of the image.
    Axes,
    /// The Hartley transform along both axes at once: the real less the imaginary part of the
    /// centred orthonormal Fourier transform. Coefficient (k, l) is the frequency (2 pi (k - h/2) /
    /// h, 2 pi (l - w/2) / w), halves rounded down. It is symmetric and its own inverse.
    Hartley,
}

type Power<'a> = Box<dyn Fn(Shape, &[f32]) -> Vec<f64> + 'a>;
type Maps<'a> = Box<dyn Fn(Shape) -> [Taps; 2] + 'a>;

enum Kind<'a> {
    Pixels(Power<'a>),
    Cosine(Power<'a>),
    Hartley(Power<'a>),
    Axes(Maps<'a>, Decomposed),
    Basis(Maps<'a>, Power<'a>),
}

/// The last decomposition: image shape, singular values and vectors. Transform and power share it.
type Decomposed = RefCell<Option<(Shape, [Singular; 2])>>;

/// The power of a linear operator A in a transform T that makes it diagonal: `T A^T A T^T =
/// diag(power)`, the same for every channel. What T leaves out of an image, A does not see.
///
/// The roots of the power are the singular values of A, and the rows of T are its right singular
/// vectors. The transform does not depend on the operator's state, but the power may: a graph is
/// recorded for the transform, and its numbers are computed for each measurement.
///
/// A spectrum in the cosine transform may be approximate. A blur that reflects without repeating
/// the edge is diagonal there except for a border as wide as its kernel. If its kernel has no
/// symmetry, it also mixes the phases of a frequency and its mirror image. The power of such an
/// operator is the diagonal of `T A A^T T^T`; `tests/operators/spectrum.rs` states how far `T A^T A`
/// is from it.
pub struct Spectrum<'a>(Kind<'a>);

impl<'a> Spectrum<'a> {
    /// A spectrum in [`Transform::Pixels`]. `power(x, state)` gives |A|^2 at each of the h w
    /// pixels, row by row, for images of shape `x` (n = 1) and the state of one image.
    pub fn pixels(power: impl Fn(Shape, &[f32]) -> Vec<f64> + 'a) -> Spectrum<'a> {
        Spectrum(Kind::Pixels(Box::new(power)))
    }

    /// A spectrum in [`Transform::Cosine`]. `power(x, state)` gives |A|^2 at each of the h w
    /// frequencies, row by row, for images of shape `x` (n = 1) and the state of one image.
    pub fn cosine(power: impl Fn(Shape, &[f32]) -> Vec<f64> + 'a) -> Spectrum<'a> {
        Spectrum(Kind::Cosine(Box::new(power)))
    }

    /// A spectrum in [`Transform::Hartley`], of an operator that moves with the image around its
    /// edges. `power(x, state)` gives |A|^2 at each of the h w frequencies, row by row, for images
    /// of shape `x` (n = 1) and the state of one image.
    pub fn hartley(power: impl Fn(Shape, &[f32]) -> Vec<f64> + 'a) -> Spectrum<'a> {
        Spectrum(Kind::Hartley(Box::new(power)))
    }

    /// The spectrum of an operator without state that is a map along the height and then one along
    /// the width. `maps(x)` gives both for images of shape `x`. Transform and power follow from
    /// their singular values; values below 1e-4 of the largest one count as 0 and are left out.
    pub fn separable(maps: impl Fn(Shape) -> [Taps; 2] + 'a) -> Spectrum<'a> {
        Spectrum(Kind::Axes(Box::new(maps), RefCell::default()))
    }

    /// A spectrum in a basis of the operator's own. `maps(x)` gives its orthonormal vectors along
    /// the height and along the width as rows, `power(x, state)` |A|^2 at each pair of them.
    pub fn basis(
        maps: impl Fn(Shape) -> [Taps; 2] + 'a,
        power: impl Fn(Shape, &[f32]) -> Vec<f64> + 'a,
    ) -> Spectrum<'a> {
        Spectrum(Kind::Basis(Box::new(maps), Box::new(power)))
    }

    /// The transform in which A is diagonal.
    pub fn transform(&self) -> Transform {
        match &self.0 {
            Kind::Pixels(_) => Transform::Pixels,
            Kind::Cosine(_) => Transform::Cosine,
            Kind::Hartley(_) => Transform::Hartley,
            Kind::Axes(..) | Kind::Basis(..) => Transform::Axes,
        }
    }

    /// The transform T of images of shape `x`: its maps along the height and along the width. None
    /// for [`Transform::Pixels`], which changes nothing, and for [`Transform::Hartley`], which is
    /// no map along one axis and then along the other.
    pub fn taps(&self, x: Shape) -> Option<[Taps; 2]> {
        match &self.0 {
            Kind::Pixels(_) | Kind::Hartley(_) => None,
            Kind::Cosine(_) => Some([x.h, x.w].map(Taps::cosine_transform)),
            Kind::Axes(maps, last) => Some(decomposed(maps, last, x).map(|axis| axis.vectors)),
            Kind::Basis(maps, _) => Some(maps(x)),
        }
    }

    /// The transform T of images of shape `x`, for a graph.
    pub(crate) fn sized(&self, x: Shape) -> SizedTransform {
        match (self.transform(), self.taps(x)) {
            (Transform::Hartley, _) => SizedTransform::Hartley,
            (_, None) => SizedTransform::Pixels,
            (_, Some(maps)) => {
                let back = maps.each_ref().map(|taps| Arc::new(taps.transposed()));
                SizedTransform::Axes { maps: maps.map(Arc::new), back }
            }
        }
    }

    /// |A|^2 at each coefficient, row by row, for images of shape `x` and the state of one image.
    /// Fails if the operator gives another number of values, or values that are negative or not
    /// finite.
    pub fn power(&self, x: Shape, state: &[f32]) -> Result<Vec<f64>> {
        let (power, rows, columns) = match &self.0 {
            Kind::Pixels(power) | Kind::Cosine(power) | Kind::Hartley(power) | Kind::Basis(_, power) => {
                (power(x, state), x.h, x.w)
            }
            Kind::Axes(maps, last) => {
                let [rows, columns] = decomposed(maps, last, x).map(|axis| axis.values);
                let power = rows.iter().flat_map(|r| columns.iter().map(move |c| (r * c).powi(2))).collect();
                (power, rows.len(), columns.len())
            }
        };
        if power.len() != rows * columns {
            return Err(Error::Invalid(format!(
                "the operator's spectrum has {} values for an image of {}x{} pixels; it needs one for each of the {} \
                 coefficients",
                power.len(),
                x.w,
                x.h,
                rows * columns
            )));
        }
        match power.iter().position(|p| !p.is_finite() || *p < 0.0) {
            None => Ok(power),
            Some(i) => Err(Error::Invalid(format!(
                "the operator's spectrum has the power {} at coefficient ({}, {}); a power is finite and not negative",
                power[i],
                i / columns,
                i % columns
            ))),
        }
    }
}

/// A transform of images of one size, which a graph can record.
#[derive(Clone)]
pub(crate) enum SizedTransform {
    Pixels,
    Axes {
        maps: [Arc<Taps>; 2],
        /// The transposed maps.
        back: [Arc<Taps>; 2],
    },
    Hartley,
}

impl SizedTransform {
    /// The coefficients T x.
    pub fn coefficients(&self, g: &mut Graph, name: &str, x: TensorId) -> Result<TensorId> {
        match self {
            SizedTransform::Pixels => Ok(x),
            SizedTransform::Axes { maps, .. } => g.along_axes(name, x, maps.clone()),
            SizedTransform::Hartley => g.hartley(name, x),
        }
    }

    /// The image T^T c of coefficients c.
    pub fn image(&self, g: &mut Graph, name: &str, c: TensorId) -> Result<TensorId> {
        match self {
            SizedTransform::Axes { back, .. } => g.along_axes(name, c, back.clone()),
            _ => self.coefficients(g, name, c),
        }
    }
}

fn decomposed(maps: &Maps<'_>, last: &Decomposed, x: Shape) -> [Singular; 2] {
    let mut last = last.borrow_mut();
    match &*last {
        Some((shape, found)) if *shape == x => found.clone(),
        _ => {
            let found = right_singular(maps(x));
            *last = Some((x, found.clone()));
            found
        }
    }
}
