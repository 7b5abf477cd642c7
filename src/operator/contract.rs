//! The trait of measurement operators.

use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::Picture;
use crate::tensor::Shape;
use std::path::{Path, PathBuf};

/// A known map from images in [-1, 1] to measurements. Most measurements are images in [-1, 1] too.
pub trait Operator: std::fmt::Debug + Send + Sync {
    /// The task with its options, as the user writes it on the command line.
    fn task(&self) -> String;

    /// Shape of the measurement of images of shape `x`.
    fn measurement_shape(&self, x: Shape) -> Shape {
        x
    }

    /// Shape of the image that gives a measurement of shape `y`; images have three channels.
    fn image_shape(&self, y: Shape) -> Shape {
        Shape { c: 3, ..y }
    }

    /// Shape of the operator's state (a mask or kernel) for images of shape `x`. None if the
    /// operator has no state.
    fn state_shape(&self, _x: Shape) -> Option<Shape> {
        None
    }

    /// The state for one image of shape `x` (n = 1), drawn from the seed or read from a file. Empty
    /// for operators without a state.
    fn draw_state(&self, _x: Shape, _seed: u64) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }

    /// The origin of the state.
    fn state_origin(&self) -> StateOrigin<'_> {
        StateOrigin::None
    }

    /// The files that the task reads. What they contain is part of what a result was made from.
    fn files(&self) -> Vec<PathBuf> {
        match self.state_origin() {
            StateOrigin::File(path) => vec![path.into()],
            StateOrigin::None | StateOrigin::Drawn { .. } => Vec::new(),
        }
    }

    /// Fails if `state` is not valid for one image of shape `x`. The caller has checked the number
    /// of values.
    fn check_state(&self, _x: Shape, _state: &[f32]) -> Result<()> {
        Ok(())
    }

    /// The values of y that were measured, of one image of shape `x` with this state. The others
    /// get no noise and do not count in the norm of the noise.
    fn observed<'a>(&self, _x: Shape, _state: &'a [f32]) -> Observed<'a> {
        Observed::All
    }

    /// Fails if images of shape `x` can't be measured.
    fn check(&self, _x: Shape) -> Result<()> {
        Ok(())
    }

    /// Records `A(x)`. `state` is a tensor of [`Operator::state_shape`].
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId>;

    /// The spectrum of A in a transform that makes it diagonal, if one is known. Samplers
    /// [whiten](crate::sampler::whitening) the residual of operators with a spectrum over
    /// frequencies, such as blurs.
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        None
    }

    /// The spectrum for methods that move along the singular vectors of A, such as DDRM. By default
    /// it is [`Operator::spectrum`]. An operator whose spectrum there is approximate gives its
    /// exact one here, or none if that is not known.
    fn singular_spectrum(&self) -> Option<Spectrum<'_>> {
        self.spectrum()
    }

    /// True if A(a x + b z) = a A(x) + b A(z).
    fn is_linear(&self) -> bool {
        true
    }

    /// True if a picture file can hold a measurement: y is in [-1, 1] with one or three channels.
    fn measures_pictures(&self) -> bool {
        true
    }

    /// A measurement y of `shape` (n = 1) as a picture to look at. By default y itself, where one
    /// channel is grey.
    fn picture(&self, y: &[f32], shape: Shape) -> Picture {
        let values = match shape.c {
            1 => y.iter().flat_map(|&v| [v; 3]).collect(),
            _ => y.to_vec(),
        };
        Picture { width: shape.w, height: shape.h, values }
    }

    /// Name and picture of a naive restoration of an image of shape `x` (n = 1). None if it follows
    /// from the picture of the measurement, see [`baseline`](super::baseline()).
    fn naive(&self, _y: &[f32], _state: &[f32], _x: Shape) -> Option<(&'static str, Picture)> {
        None
    }

    /// Runs per sample with other starts. The one whose residual is smallest is kept. More than 1
    /// where methods often end in a wrong maximum.
    fn restarts(&self) -> u32 {
        1
    }

    /// Images with the same measurement as `x`, each with what was done to it. A restored image is
    /// compared with the truth in the form that fits best.
    fn equivalents(&self, _x: &Picture) -> Vec<(&'static str, Picture)> {
        Vec::new()
    }
}

/// The origin of an operator's state.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StateOrigin<'a> {
    /// The operator has no state.
    None,
    /// It is drawn from a seed.
    Drawn {
        /// The task that reads the state from a file instead, as it is written, if there is one.
        given: Option<&'static str>,
    },
    /// It is read from this file.
    File(&'a Path),
}

/// The values of a measurement y that were measured.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// All values.
    All,
    /// The values where this mask is not 0. It is (h, w) for all channels of y, or (h, w, c).
    Mask(&'a [f32]),
}

impl Observed<'_> {
    /// True if value `i` of the `len` values of y was measured.
    pub fn includes(self, i: usize, len: usize) -> bool {
        match self {
            Observed::All => true,
            Observed::Mask(mask) => mask[i / (len / mask.len())] != 0.0,
        }
    }
}

/// Fails if images of shape `x` have not the three channels of a colour image.
pub(super) fn check_colour(operator: &dyn Operator, x: Shape) -> Result<()> {
    match x.c {
        3 => Ok(()),
        c => Err(Error::Invalid(format!("{} measures three channels, what it gets has {c}", operator.task()))),
    }
}
