//! The noise schedule that a network was trained with.

use crate::error::Result;
use crate::weights::Checkpoint;
use serde::Serialize;

/// The betas of training as a function of the step, as guided-diffusion and diffusers define them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoiseSchedule {
    /// Evenly spaced from 1e-4 to 0.02, all times 1000 / steps.
    Linear,
    /// abar falls as a squared cosine (Nichol and Dhariwal 2021); a beta is at most 0.999.
    Cosine,
    /// The square roots of the betas are evenly spaced from sqrt(0.00085) to sqrt(0.012), as in
    /// Stable Diffusion.
    ScaledLinear,
}

impl NoiseSchedule {
    /// Every schedule.
    pub const ALL: [NoiseSchedule; 3] = [NoiseSchedule::Linear, NoiseSchedule::Cosine, NoiseSchedule::ScaledLinear];

    /// Its name in configurations: `linear`, `cosine` or `scaled_linear`.
    pub fn name(self) -> &'static str {
        match self {
            NoiseSchedule::Linear => "linear",
            NoiseSchedule::Cosine => "cosine",
            NoiseSchedule::ScaledLinear => "scaled_linear",
        }
    }

    /// The schedule of this name.
    pub fn of_name(name: &str) -> Option<NoiseSchedule> {
        NoiseSchedule::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The betas of `steps` steps.
    pub fn betas(self, steps: usize) -> Vec<f64> {
        let line = |a: f64, b: f64, i: usize| if steps == 1 { a } else { a + (b - a) * i as f64 / (steps - 1) as f64 };
        match self {
            NoiseSchedule::Linear => {
                let scale = 1000.0 / steps as f64;
                (0..steps).map(|i| line(scale * 1e-4, scale * 0.02, i)).collect()
            }
            NoiseSchedule::ScaledLinear => {
                (0..steps).map(|i| line(0.00085f64.sqrt(), 0.012f64.sqrt(), i).powi(2)).collect()
            }
            NoiseSchedule::Cosine => {
                let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let at = |i: usize| i as f64 / steps as f64;
                (0..steps).map(|i| (1.0 - bar(at(i + 1)) / bar(at(i))).min(0.999)).collect()
            }
        }
    }
}

impl std::fmt::Display for NoiseSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Products of 1 - beta up to each step.
pub fn alpha_bars(betas: &[f64]) -> Vec<f64> {
    let products = betas.iter().scan(1.0, |product, beta| {
        *product *= 1.0 - beta;
        Some(*product)
    });
    products.collect()
}

/// Largest difference of abar between a table in f32 and the formula. A table that differs more
/// belongs to another schedule.
const TABLE_ERROR: f64 = 1e-4;

/// The schedule and number of steps that a table in the file describes: `alphas_cumprod`,
/// `sqrt_alphas_cumprod` or `betas`. None if the file has no table. Fails if the table is none of
/// the known schedules.
pub(super) fn of_tables(checkpoint: &Checkpoint) -> Result<Option<(NoiseSchedule, usize)>> {
    let table = |name: &str| checkpoint.table(name).transpose().map(|t| t.map(|t| (name.to_string(), t)));
    let tables = ["alphas_cumprod", "sqrt_alphas_cumprod", "betas"].map(table);
    let Some((name, values)) = tables.into_iter().flatten().next().transpose()? else { return Ok(None) };
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    let found = match name.as_str() {
        "betas" => alpha_bars(&values),
        "sqrt_alphas_cumprod" => values.iter().map(|v| v * v).collect(),
        _ => values,
    };
    for schedule in NoiseSchedule::ALL.into_iter().filter(|_| !found.is_empty()) {
        let expected = alpha_bars(&schedule.betas(found.len()));
        if expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < TABLE_ERROR) {
            return Ok(Some((schedule, found.len())));
        }
    }
    let (steps, names) = (found.len(), NoiseSchedule::ALL.map(NoiseSchedule::name).join(", "));
    Err(checkpoint
        .error(format!("its table {name} of {steps} steps is none of the schedules {names}; only these are known")))
}
