//! What a result is made from, so that a second run can tell whether it would make the same.

use serde::Serialize;
use serde_json::Value;

/// All that decides what a restored image looks like, up to rounding. It stands in `result.json`.
#[derive(Serialize, Debug, Clone)]
pub struct Recipe {
    /// SHA-256 of the input file.
    pub input_sha256: String,
    /// True where the input is a measurement and not a photo.
    pub measurement: bool,
    /// The part of the photo that was taken, as width and height.
    pub crop: Option<(usize, usize)>,
    /// The task with its options.
    pub task: String,
    /// SHA-256 of the file of the task's mask or kernel.
    pub task_file_sha256: Option<String>,
    /// Noise of the measurement: `0.025`, `poisson:0.5`; none where the measurement file says it.
    pub noise: Option<String>,
    /// The user's seed.
    pub seed: u64,
    /// Samples of this measurement.
    pub samples: u32,
    /// SHA-256 over names, shapes and a part of the values of the model's tensors.
    pub model_sha256: String,
    /// The text of a latent model.
    pub prompt: Option<String>,
    /// The class of a class-conditional model.
    pub label: Option<u32>,
    /// Storage type of activations and weights.
    pub precision: &'static str,
    /// `map`, one best image, or `sample`, a draw of the posterior.
    pub estimate: &'static str,
    /// The method with its options.
    pub method: String,
    /// Noise levels.
    pub steps: usize,
    /// Variance of the ancestral step.
    pub variance: String,
    /// Which noise levels are visited.
    pub spacing: String,
    /// Share of the posterior's noise that a step adds.
    pub eta: f64,
    /// The estimate of the clean image is limited to [-1, 1].
    pub clip: bool,
}

impl Recipe {
    /// What differs between this recipe and the one in the text of a `result.json`, in words; empty if nothing does.
    pub fn differences(&self, result: &str, model: &str) -> Vec<String> {
        let Ok(there) = serde_json::from_str::<Value>(result) else {
            return vec!["its result.json is not JSON".into()];
        };
        // Through text, so that both sides have gone through the same rounding.
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
