//! A preset: settings that `dmap tune` found for tasks and noises, in a JSON file.

use super::measurement::Noise;
use super::method::Answer;
use super::settings::Settings;
use crate::error::{Error, Result, shown};
use crate::model::Prior;
use crate::operator::Operator;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Settings for one task and noise, and what they reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetRow {
    /// The task as [`Operator::task`] writes it.
    pub task: String,
    /// The noise as it is typed: `0.025`.
    pub noise: String,
    /// `map` or `sample`.
    pub estimate: String,
    /// The method with its options.
    pub method: String,
    /// Number of noise levels.
    pub steps: usize,
    /// Network passes of one image.
    pub passes: usize,
    /// Number of photos that the settings were chosen on.
    pub photos: usize,
    /// Mean PSNR in dB over these photos.
    pub psnr: f64,
    /// The same with the settings that `auto` takes for as many passes.
    pub psnr_of_auto: f64,
    /// Number of photos that were held out, and the two means over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
}

/// Means over photos that the settings were not chosen on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Number of photos.
    pub photos: usize,
    /// Mean PSNR in dB.
    pub psnr: f64,
    /// The same with the settings that `auto` takes.
    pub psnr_of_auto: f64,
}

/// Settings per task and noise, for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// SHA-256 that identifies the model's weights and configuration.
    pub model_sha256: String,
    /// One row per task, noise and kind of answer.
    pub rows: Vec<PresetRow>,
}

/// Tasks that a message names at most.
const MOST_NAMED: usize = 20;
/// The most that is read of a preset: some 100 000 rows.
const MOST_BYTES: u64 = 64 << 20;

impl Preset {
    /// Reads a preset. Fails with a sentence if the file is none.
    pub fn read(path: &Path) -> Result<Preset> {
        let refuse = |reason: String| Error::Invalid(format!("{}: {reason}", shown(path)));
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > MOST_BYTES {
            return Err(refuse(format!("a preset of {size} bytes; `dmap tune` writes small ones")));
        }
        let text = std::fs::read(path).map_err(Error::io(path))?;
        serde_json::from_slice(&text).map_err(|e| refuse(format!("not a preset of `dmap tune` ({e})")))
    }

    /// The row for a task and a kind of answer whose noise is nearest, as a ratio. Fails if the
    /// task has no row.
    pub fn row(&self, operator: &dyn Operator, noise: Noise, answer: Answer) -> Result<&PresetRow> {
        let (task, estimate) = (operator.task(), answer.name());
        let noise_of = |row: &PresetRow| row.noise.parse::<Noise>();
        let mut nearest: Option<(f64, &PresetRow)> = None;
        for row in self.rows.iter().filter(|r| r.task == task && r.estimate == estimate) {
            let distance = (noise_of(row)?.usual_sigma() / noise.usual_sigma()).ln().abs();
            if nearest.is_none_or(|(least, _)| distance < least) {
                nearest = Some((distance, row));
            }
        }
        nearest.map(|(_, row)| row).ok_or_else(|| {
            let known: BTreeSet<String> = self.rows.iter().map(|r| format!("{} ({})", r.task, r.estimate)).collect();
            let known: Vec<String> = known.into_iter().take(MOST_NAMED).collect();
            Error::Invalid(format!("the preset has no row for {task} ({estimate}); it has {}", known.join(", ")))
        })
    }
}

impl PresetRow {
    /// The settings of this row.
    pub fn settings(&self, prior: &Prior) -> Result<Settings> {
        Ok(Settings::parse(&self.method, prior)?.steps(self.steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::parse_task;

    fn row(task: &str, noise: &str, method: &str) -> PresetRow {
        PresetRow {
            task: task.into(),
            noise: noise.into(),
            estimate: "map".into(),
            method: method.into(),
            steps: 16,
            passes: 16,
            photos: 4,
            psnr: 24.0,
            psnr_of_auto: 23.5,
            held_out: None,
        }
    }

    #[test]
    fn the_row_of_the_task_with_the_nearest_noise_is_taken() {
        let rows = vec![row("sr4", "0.01", "a"), row("sr4", "0.1", "b"), row("sr2", "0.03", "c")];
        let preset = Preset { model_sha256: String::new(), rows };
        let of_noise = |noise: Noise| {
            let sr4 = parse_task("sr4").unwrap();
            preset.row(sr4.as_ref(), noise, Answer::Map).map(|r| r.method.clone())
        };
        let method = |sigma: f64| of_noise(Noise::Gaussian(sigma));
        // Halfway between 0.01 and 0.1, as a ratio, is 0.0316.
        assert_eq!(method(0.03).unwrap(), "a");
        assert_eq!(method(0.033).unwrap(), "b");
        assert_eq!(method(0.0).unwrap(), "a");
        // At middle grey these photon counts have the standard deviations 0.044 and 0.014.
        assert_eq!(of_noise(Noise::Poisson(1.0)).unwrap(), "b");
        assert_eq!(of_noise(Noise::Poisson(10.0)).unwrap(), "a");
        let sr4 = parse_task("sr4").unwrap();
        let e = preset.row(sr4.as_ref(), Noise::Gaussian(0.1), Answer::Sample).unwrap_err().to_string();
        assert_eq!(e, "the preset has no row for sr4 (sample); it has sr2 (map), sr4 (map)");
    }
}
