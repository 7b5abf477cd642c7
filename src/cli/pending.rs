//! An image that waits to be restored, or that is restored and not yet written.

use super::inputs::Input;
use crate::image::Picture;
use crate::report::{Recipe, StepLog};
use crate::sampler::{Measurement, Noise, Restoration};
use crate::tensor::Shape;
use std::fs::File;

/// An image that waits to be restored, or that is restored and not yet written.
pub(super) struct Pending {
    pub input: Input,
    pub recipe: Recipe,
    pub truth: Option<Picture>,
    /// True if the input has one channel; the output then has one too.
    pub grey: bool,
    /// Noise that the measurement has, or is stated to have.
    pub noise: Noise,
    /// Norm of the noise that was added to a photo's measurement.
    pub added_noise_norm: Option<f64>,
    pub image: Shape,
    pub measurement: Measurement,
    pub y: Picture,
    pub done: Vec<Restoration>,
    /// Residuals of all restarts.
    pub tried: Vec<f64>,
    /// What was done to a restored image to fit the truth or the first sample.
    pub form: Option<&'static str>,
    pub seconds: f64,
    /// The steps of the first sample, if the run writes a page about them.
    pub steps: StepLog,
    /// Keeps other processes out of the image's folder.
    pub claim: Option<File>,
}
