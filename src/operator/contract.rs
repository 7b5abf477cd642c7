//! What an operator states about itself.

use super::spectrum::Spectrum;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::tensor::Shape;
use std::path::Path;

/// A known map from images to measurements, both in [-1, 1].
pub trait Operator: std::fmt::Debug + Send + Sync {
    /// The task as it is written on the command line, options included.
    fn task(&self) -> String;

    /// Extent of the measurement of images of extent `x`.
    fn measurement_shape(&self, x: Shape) -> Shape {
        x
    }

    /// Extent of the image behind a measurement of extent `y`.
    fn image_shape(&self, y: Shape) -> Shape {
        y
    }

    /// Extent of the operator's state for images of extent `x`, if it has one.
    fn state_shape(&self, _x: Shape) -> Option<Shape> {
        None
    }

    /// The state for one image of extent `x` (n = 1).
    fn draw_state(&self, _x: Shape, _seed: u64) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }

    /// Where the state comes from.
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::None
    }

    /// Fails on values that can't be the state of one image of extent `x`; their number is right.
    fn check_state(&self, _x: Shape, _state: &[f32]) -> Result<()> {
        Ok(())
    }

    /// Which values of y hold a measurement: the others get no noise and are not counted in its norm.
    fn observed<'a>(&self, _state: &'a [f32]) -> Observed<'a> {
        Observed::All
    }

    /// Fails if images of extent `x` can't be measured.
    fn check(&self, _x: Shape) -> Result<()> {
        Ok(())
    }

    /// Records `A(x)`.
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId>;

    /// A in a transform in which it is diagonal, where one is known. The residual of an operator with a spectrum in the cosine
    /// transform, as blurs have, is [whitened](crate::sampler::whitening).
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        None
    }

    /// True where A(a x + b z) = a A(x) + b A(z).
    fn is_linear(&self) -> bool {
        true
    }
}

/// Where an operator's state comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StateOrigin<'a> {
    /// There is none: the task says all.
    None,
    /// It is drawn from a seed. `given` is the task that takes it from a file.
    Drawn {
        /// How that task is written.
        given: &'static str,
    },
    /// It is read from this file.
    File(&'a Path),
}

/// Which values of a measurement y hold one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// All of them.
    All,
    /// Those of the pixels where this mask, (h, w) of y, is not 0.
    Mask(&'a [f32]),
}

impl Observed<'_> {
    /// True if value `i` of the `len` values of y holds a measurement.
    pub fn includes(self, i: usize, len: usize) -> bool {
        match self {
            Observed::All => true,
            Observed::Mask(mask) => mask[i / (len / mask.len())] != 0.0,
        }
    }
}
