//! A job: the checked flags of a run.

use crate::backend::Device;
use crate::graph::PlanOptions;
use crate::image::ReadOptions;
use crate::metrics::Lpips;
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::{Noise, Settings};
use std::path::PathBuf;
use std::sync::Arc;

/// A job: the checked flags of a run.
pub(super) struct Job {
    pub model: Model,
    pub operator: Arc<dyn Operator>,
    pub settings: Settings,
    pub device: Device,
    pub plan: PlanOptions,
    pub out: PathBuf,
    /// The noise that is added to the measurements of photos, and the noise that given measurements
    /// are stated to have. None if the flag was not given.
    pub noise: Option<Noise>,
    pub seed: u64,
    pub samples: u32,
    /// Runs per sample, of which the best is kept.
    pub restarts: u32,
    pub batch: usize,
    /// Options for reading photos, including the crop.
    pub read: ReadOptions,
    pub label: Option<u32>,
    pub measurement: bool,
    pub save_every: Option<usize>,
    pub overwrite: bool,
    /// The page to write about the run.
    pub report: Option<PathBuf>,
    /// LPIPS with the weights that the user gave.
    pub lpips: Option<Lpips>,
    pub json: bool,
    pub prompt: Option<String>,
    pub precision: &'static str,
    /// SHA-256 that identifies the model's weights and configuration.
    pub model_sha256: String,
    /// SHA-256 of the file of the task's mask or kernel.
    pub task_file_sha256: Option<String>,
}

impl Job {
    /// The noise for photos, and for measurements that do not state their own: the flag's, else
    /// 0.025.
    pub fn noise_or_default(&self) -> Noise {
        self.noise.unwrap_or_default()
    }
}
