//! The training schedule of a latent diffusion model: the `scheduler_config.json` of a diffusers
//! folder.

use super::config_file::{SCHEDULER, checked, refuse, text};
use super::training_schedule::NoiseSchedule;
use crate::error::Result;
use std::path::Path;

/// The training schedule: `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Steps of the training schedule.
    pub num_train_timesteps: usize,
    /// The betas as a function of the step.
    pub noise_schedule: NoiseSchedule,
    /// `epsilon` or `v_prediction`.
    pub prediction_type: String,
    /// True: the file does not give the betas, so the defaults of diffusers are assumed.
    pub betas_assumed: bool,
}

/// The schedule of Stable Diffusion.
impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            num_train_timesteps: 1000,
            noise_schedule: NoiseSchedule::ScaledLinear,
            prediction_type: "epsilon".into(),
            betas_assumed: false,
        }
    }
}

/// Schedulers whose betas define a variance-preserving schedule, grouped by their defaults:
/// (beta_start, beta_end, class names). The default of their beta_schedule is `linear`.
const SCHEDULERS: [(f64, f64, &[&str]); 2] = [
    (
        0.0001,
        0.02,
        &[
            "DDIMInverseScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        ],
    ),
    (
        0.00085,
        0.012,
        &[
            "DPMSolverSDEScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
        ],
    ),
];

impl SchedulerConfig {
    /// Reads `scheduler/scheduler_config.json`.
    pub fn read(path: &Path) -> Result<SchedulerConfig> {
        SchedulerConfig::of_text(path, &text(path)?)
    }

    /// As `read`, from the text of such a file. `path` is for error messages.
    pub fn of_text(path: &Path, text: &str) -> Result<SchedulerConfig> {
        let value = checked(path, text, &SCHEDULER)?;
        let word = |key: &str| value.get(key).and_then(|v| v.as_str());
        let number = |key: &str| value.get(key).and_then(|v| v.as_f64());
        let class = word("_class_name");
        let defaults = SCHEDULERS.iter().find(|(.., classes)| class.is_none_or(|c| classes.contains(&c)));
        let Some((beta_start, beta_end, _)) = defaults else {
            let known: Vec<&str> =
                SCHEDULERS.iter().flat_map(|s| s.2).map(|c| c.trim_end_matches("Scheduler")).collect();
            let found = class.unwrap_or_default();
            let reason = format!("_class_name is {found}; schedulers of betas are supported: {}", known.join(", "));
            return Err(refuse(path, reason));
        };
        let schedule = word("beta_schedule").unwrap_or("linear");
        let [start, end] = [number("beta_start").unwrap_or(*beta_start), number("beta_end").unwrap_or(*beta_end)];
        let steps = value.get("num_train_timesteps").and_then(|v| v.as_u64()).unwrap_or(1000);
        let noise_schedule = match schedule {
            "scaled_linear" if (start, end) == (0.00085, 0.012) => NoiseSchedule::ScaledLinear,
            "linear" if (start, end, steps) == (0.0001, 0.02, 1000) => NoiseSchedule::Linear,
            "squaredcos_cap_v2" => NoiseSchedule::Cosine,
            _ => {
                return Err(refuse(
                    path,
                    format!(
                        "beta_schedule {schedule} with beta_start {start}, beta_end {end} and num_train_timesteps {steps} \
                         is not supported; scaled_linear from 0.00085 to 0.012, linear from 0.0001 to 0.02 in 1000 steps \
                         and squaredcos_cap_v2 are (keys that are left out have the defaults of diffusers)"
                    ),
                ));
            }
        };
        let prediction_type = word("prediction_type").unwrap_or("epsilon");
        if !["epsilon", "v_prediction"].contains(&prediction_type) {
            let reason = format!("prediction_type is {prediction_type}; epsilon and v_prediction are supported");
            return Err(refuse(path, reason));
        }
        Ok(SchedulerConfig {
            num_train_timesteps: steps as usize,
            noise_schedule,
            prediction_type: prediction_type.into(),
            betas_assumed: word("beta_schedule").is_none(),
        })
    }
}
