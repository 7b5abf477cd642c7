//! The JSON report about a restored image.

use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::image::write_whole;
use serde::Serialize;
use std::path::Path;

/// `result.json`: settings and figures of one restored image. It is removed before the pictures are
/// written, and written after them. So a folder that has it is complete.
#[derive(Serialize, Debug)]
pub struct ImageResult {
    /// Input file.
    pub input: String,
    /// The model's file or architecture.
    pub model: String,
    /// Everything that determines the picture.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// Width and height of the image in pixels.
    pub size: [usize; 2],
    /// Width and height in pixels that the sampler worked on, rounded up to what the model takes.
    pub canvas: [usize; 2],
    /// Noise that the measurement has or is stated to have, such as `0.025` or `poisson:0.5`.
    pub measurement_noise: String,
    /// PSNR in dB of the restored image, or of the mean of several samples. None if the true image
    /// is unknown.
    pub psnr: Option<f64>,
    /// PSNR of each sample in dB.
    pub psnr_samples: Option<Vec<f64>>,
    /// Name of the baseline.
    pub baseline: &'static str,
    /// PSNR of the baseline in dB.
    pub psnr_baseline: Option<f64>,
    /// Structural similarity.
    pub ssim: Option<f64>,
    /// LPIPS distance to the true image, of pictures in 8 bits; none without its weights.
    pub lpips: Option<f64>,
    /// The network of LPIPS: `alex` or `vgg`.
    pub lpips_network: Option<&'static str>,
    /// || A(x) - y || of the restored image in [-1, 1] units (mean over samples).
    pub residual: f64,
    /// Residuals of all restarts of all samples; none without restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual_restarts: Option<Vec<f64>>,
    /// What was done to the restored image, which changes nothing in the measurement, to fit the
    /// truth or the first sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<&'static str>,
    /// Norm of the noise that was added, in [-1, 1] units.
    pub added_noise_norm: Option<f64>,
    /// The residual divided by the expected norm of the noise; none without noise.
    pub residual_over_noise: Option<f64>,
    /// A warning if this result is doubtful.
    pub warning: Option<String>,
    /// Residual norm at every step of the first sample.
    pub residuals: Vec<f32>,
    /// Wall time of sampling in seconds, divided by the number of images in the batch.
    pub seconds: f64,
    /// The same per step.
    pub seconds_per_step: f64,
    /// Bytes of arena, inputs and constants.
    pub arena_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// The device that it ran on.
    pub device: String,
    /// Version of the program.
    pub version: &'static str,
}

impl ImageResult {
    /// Writes the JSON atomically: the file is complete or not changed.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))?;
        write_whole(path, (text + "\n").as_bytes())
    }
}
