//! What is written about a restored image.

use crate::error::{Error, Result};
use crate::image::write_whole;
use serde::Serialize;
use std::path::Path;

/// `result.json`: settings and figures of one restored image. Written last: an image that has it is finished.
#[derive(Serialize, Debug)]
pub struct ImageResult {
    /// Input file.
    pub input: String,
    /// The task with its options.
    pub task: String,
    /// The method.
    pub method: String,
    /// The model's file or preset.
    pub model: String,
    /// The user's seed.
    pub seed: u64,
    /// Noise levels.
    pub steps: usize,
    /// Step size.
    pub zeta: f64,
    /// `relative` or `absolute`.
    pub zeta_unit: &'static str,
    /// Deviation of images in the covariance of the residual; none where the residual is plain.
    pub whiten: Option<f64>,
    /// Ascent steps per noise level.
    pub inner: usize,
    /// Width and height.
    pub size: [usize; 2],
    /// Width and height inside, where the model takes only multiples.
    pub canvas: [usize; 2],
    /// Samples of this measurement.
    pub samples: u32,
    /// Noise of the measurement, as typed: `0.025`, `poisson:0.5`.
    pub noise: String,
    /// PSNR of the restored image (the mean, for several samples) in dB; none without a truth.
    pub psnr: Option<f64>,
    /// PSNR of each sample.
    pub psnr_samples: Option<Vec<f64>>,
    /// What the baseline is.
    pub baseline: &'static str,
    /// PSNR of the baseline in dB.
    pub psnr_baseline: Option<f64>,
    /// Structural similarity.
    pub ssim: Option<f64>,
    /// || A(x) - y || of the restored image in [-1, 1] units (mean over samples).
    pub residual: f64,
    /// Norm of the noise that was added.
    pub noise_norm: Option<f64>,
    /// Residual at every step of the first sample.
    pub residuals: Vec<f32>,
    /// Wall time of the sampling, divided by the images of its batch.
    pub seconds: f64,
    /// The same per step.
    pub seconds_per_step: f64,
    /// Bytes of arena, inputs and constants.
    pub arena_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Where it ran.
    pub device: String,
    /// Version of the program.
    pub version: &'static str,
}

impl ImageResult {
    /// Writes the JSON, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))?;
        write_whole(path, (text + "\n").as_bytes())
    }
}
