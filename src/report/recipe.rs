//! The recipe of a result. A second run compares recipes to know whether it would give the same
//! result.

use serde::Serialize;
use serde_json::Value;

/// Everything that determines a restored image, up to rounding. It is part of `result.json`.
#[derive(Serialize, Debug, Clone)]
pub struct Recipe {
    /// SHA-256 of the input file.
    pub input_sha256: String,
    /// True if the input is a measurement and not a photo.
    pub measurement: bool,
    /// Width and height of the part of the photo that was taken, in pixels; none for the whole
    /// photo.
    pub crop: Option<(usize, usize)>,
    /// The task with its options.
    pub task: String,
    /// SHA-256 of the file of the task's mask or kernel.
    pub task_file_sha256: Option<String>,
    /// Noise of the measurement, such as `0.025` or `poisson:0.5`; none if the measurement file
    /// gives it.
    pub noise: Option<String>,
    /// The user's seed.
    pub seed: u64,
    /// Number of samples of this measurement.
    pub samples: u32,
    /// Runs per sample, of which the best was kept.
    pub restarts: u32,
    /// SHA-256 over names, shapes and a part of the values of the model's tensors.
    pub model_sha256: String,
    /// The prompt of a latent model.
    pub prompt: Option<String>,
    /// The class label of a class-conditional model.
    pub label: Option<u32>,
    /// Storage type of activations and weights.
    pub precision: &'static str,
    /// `map` (one best image) or `sample` (a draw from the posterior).
    pub estimate: &'static str,
    /// The method with its options.
    pub method: String,
    /// Number of noise levels.
    pub steps: usize,
    /// Variance of the ancestral step.
    pub variance: String,
    /// Spacing of the noise levels.
    pub spacing: String,
    /// Noise that a step adds, as a share of the posterior's standard deviation.
    pub eta: f64,
    /// True if the estimate of the clean image is clamped to [-1, 1].
    pub clip: bool,
}

impl Recipe {
    /// The differences between this recipe and the one in `result`, the text of a `result.json`, in
    /// words. `model` is this run's model name. Empty if the recipes are equal.
    pub fn differences(&self, result: &str, model: &str) -> Vec<String> {
        let Ok(there) = serde_json::from_str::<Value>(result) else {
            return vec!["its result.json is not JSON".into()];
        };
        // This recipe is converted to text and back, so that both sides have been rounded the same
        // way.
        let here = serde_json::to_string(self).unwrap_or_default();
        let here: Value = serde_json::from_str(&here).unwrap_or_default();
        let Some(here) = here.as_object() else { return Vec::new() };
        let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        let other_model = || match there["model"].as_str() {
            Some(before) if before != model => format!("model is {before} there, {model} here"),
            _ => "the model has other weights or another configuration".into(),
        };
        (here.iter())
            .filter(|(key, value)| there[key.as_str()] != **value)
            .map(|(key, value)| match key.as_str() {
                _ if there.get(key).is_none() => format!("{key} is not recorded there"),
                "input_sha256" => "the input file has another content".into(),
                "task_file_sha256" => "the file of the task has another content".into(),
                "model_sha256" => other_model(),
                key => format!("{key} is {} there, {} here", plain(&there[key]), plain(value)),
            })
            .collect()
    }
}
