//! What is to be done, flags checked.

use crate::backend::Device;
use crate::graph::PlanOptions;
use crate::image::ReadOptions;
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::{Noise, Settings};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags, checked and ready.
pub(super) struct Job {
    pub model: Model,
    pub operator: Arc<dyn Operator>,
    pub settings: Settings,
    pub device: Device,
    pub plan: PlanOptions,
    pub out: PathBuf,
    /// Added to what photos are measured as; what given measurements are said to hold. None where it was not typed.
    pub noise: Option<Noise>,
    pub seed: u64,
    pub samples: u32,
    pub batch: usize,
    /// How photos are read, and which part of them.
    pub read: ReadOptions,
    pub label: Option<u32>,
    pub measurement: bool,
    pub save_every: Option<usize>,
    pub overwrite: bool,
    pub json: bool,
    pub prompt: Option<String>,
    pub precision: &'static str,
    /// SHA-256 that tells the model's weights from others.
    pub model_sha256: String,
    /// SHA-256 of the file of the task's mask or kernel.
    pub task_file_sha256: Option<String>,
}

impl Job {
    /// The noise of photos, and of measurements that do not say theirs.
    pub fn noise_or_default(&self) -> Noise {
        self.noise.unwrap_or(Noise::Gaussian(0.025))
    }
}
