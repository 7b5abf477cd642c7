//! What is written about a restored image.

use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::image::write_whole;
use serde::Serialize;
use std::path::Path;

/// `result.json`: settings and figures of one restored image. It is removed before the pictures are
/// written and written after them: an image that has it is finished.
#[derive(Serialize, Debug)]
pub struct ImageResult {
    /// Input file.
    pub input: String,
    /// The model's file or preset.
    pub model: String,
    /// What decides the picture.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// Width and height.
    pub size: [usize; 2],
    /// Width and height inside, where the model takes only multiples.
    pub canvas: [usize; 2],
    /// Noise that the measurement has or is said to have: `0.025`, `poisson:0.5`.
    pub measurement_noise: String,
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
    pub added_noise_norm: Option<f64>,
    /// The residual over the norm that the noise is expected to have; none without noise.
    pub residual_over_noise: Option<f64>,
    /// What is doubtful about this result.
    pub warning: Option<String>,
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
