//! Files of a training run: the estimator, and the state from which the run continues.

use super::graph::Trained;
use super::initial::copied_from;
use super::trainer::Trainer;
use crate::error::{Error, Result, shown};
use crate::graph::TensorId;
use crate::model::ControlOrigin;
use crate::model::control_file::{FileTensor, write_control};
use crate::tensor::{Shape, WeightPart};
use crate::weights::{Checkpoint, in_file_order, write_safetensors_with};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name of the file with the state of the training: weights in f32 and AdamW's moments.
pub const CHECKPOINT: &str = "training.safetensors";
/// Keys of its metadata.
const SETTINGS: &str = "dmap_settings";
const STEP: &str = "dmap_step";

/// Settings that a resumed run must share, by the names of their flags.
fn settings(t: &Trainer<'_>) -> Result<Value> {
    let s = t.settings();
    let names: Vec<String> = t.photos.files.iter().map(shown).collect();
    Ok(json!({
        "task": t.operator.task(),
        "model": t.model.weights.files_sha256()?,
        "photos": names,
        "noise": s.noise.to_string(),
        "size": format!("{}x{}", s.size.0, s.size.1),
        "batch": s.batch,
        "accumulate": s.accumulate,
        "lr": s.rate,
        "warmup": s.warmup,
        "decay": s.decay,
        "clip": s.clip,
        "weight-limit": s.weight_limit,
        "seed": s.seed,
        "zoom": s.augmentation.zoom,
        "colour": s.augmentation.colour,
        "start": s.start.as_ref().map(shown),
        "precision": t.executor.plan().storage.name(),
    }))
}

impl Trainer<'_> {
    /// Writes the estimator and the state of the training into `folder`. Each file appears whole; the
    /// state is the last one. Gives the path for `--cse`.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let origin = ControlOrigin {
            task: self.operator.task(),
            noise: self.settings.noise.to_string(),
            model: self.model.name.clone(),
            model_sha256: self.model.weights.files_sha256()?,
            shots: self.photos.files.len(),
            steps: self.step,
        };
        save(self, folder, &origin)
    }

    /// Continues from the state in `folder`. Fails if it was made with other settings, and names them.
    pub fn resume(&mut self, folder: &Path) -> Result<()> {
        self.step = resume(self, folder)?;
        Ok(())
    }

    /// The trained weights: name, extents and values as the estimator's file has them.
    pub fn weights(&self) -> Result<Vec<FileTensor>> {
        in_files(self, |trained| trained.weight.kept)
    }

    /// AdamW's first moment of every weight, in the same form. After the first step it is 0.1 times
    /// the clipped gradient.
    pub fn first_moments(&self) -> Result<Vec<FileTensor>> {
        in_files(self, |trained| trained.moments[0])
    }
}

fn save(t: &Trainer<'_>, folder: &Path, origin: &ControlOrigin) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut state = Vec::new();
    for trained in &t.recorded.trained {
        let ids = [trained.weight.kept, trained.moments[0], trained.moments[1]];
        for (id, part) in ids.into_iter().zip(STATE) {
            state.push((format!("{}{part}", trained.weight.name), t.executor.read(id)?));
        }
    }
    let estimator = in_files(t, |trained| trained.weight.kept)?;
    let path = write_control(folder, &t.control, t.model.network.unet(), &estimator, origin, t.settings.half)?;
    let all: Vec<(&str, Vec<usize>, &[f32])> =
        state.iter().map(|(name, values)| (&name[..], vec![values.len()], &values[..])).collect();
    let metadata = [(SETTINGS, settings(t)?.to_string()), (STEP, t.steps_done().to_string())];
    write_safetensors_with(&folder.join(CHECKPOINT), &all, &metadata)?;
    Ok(path)
}

/// What the names of a weight and of its moments end with in the state.
const STATE: [&str; 3] = ["", ".m", ".v"];

/// A tensor of every trained weight, by the names and in the order of the estimator's file.
fn in_files(t: &Trainer<'_>, of: impl Fn(&Trained) -> TensorId) -> Result<Vec<FileTensor>> {
    let mut all = Vec::new();
    for trained in &t.recorded.trained {
        let values = t.executor.read(of(trained))?;
        let mut left = &values[..];
        for part in trained.weight.parts.iter() {
            let (own, rest) = left.split_at(part.shape.numel());
            all.push(in_file(t, part, own));
            left = rest;
        }
    }
    Ok(all)
}

/// A weight as PyTorch stores it: with the extents of the weight that it is a copy of, else with those
/// of a convolution or of a bias.
fn in_file(t: &Trainer<'_>, part: &WeightPart, values: &[f32]) -> FileTensor {
    let name = part.name.strip_prefix("controlnet.").unwrap_or(&part.name).to_string();
    let copied = copied_from(t.network.as_ref(), &part.name);
    let extents = copied.and_then(|name| t.model.weights.files().extents(&name));
    let Shape { n, h, w, c } = part.shape;
    let usual = if part.shape == Shape::vector(c) { vec![c] } else { vec![n, c, h, w] };
    (name, extents.unwrap_or(usual), in_file_order(values, part.shape))
}

/// A setting as it is typed.
fn plain(value: Option<&Value>) -> String {
    value.map_or("not given".into(), |v| v.as_str().map_or_else(|| v.to_string(), String::from))
}

/// Writes the state in `folder` to the device. Gives the steps that were done.
fn resume(t: &mut Trainer<'_>, folder: &Path) -> Result<usize> {
    let file = Checkpoint::open(&folder.join(CHECKPOINT))?;
    let read = |key: &str| file.metadata.get(key).map(String::as_str);
    let there: Value = read(SETTINGS).and_then(|s| serde_json::from_str(s).ok()).unwrap_or_default();
    let step = read(STEP).and_then(|s| s.parse().ok());
    let (Some(step), Some(before)) = (step, there.as_object()) else {
        return Err(file.error("it is not the state of a training"));
    };
    let here = settings(t)?;
    let changed = here.as_object().into_iter().flatten().filter(|(key, value)| before.get(*key) != Some(value));
    let changed: Vec<String> = changed
        .map(|(key, value)| match key.as_str() {
            "photos" => "the photographs differ".to_string(),
            "model" => "the model has other weights".into(),
            key => format!("{key} is {} there, {} here", plain(before.get(key)), plain(Some(value))),
        })
        .collect();
    if !changed.is_empty() {
        return Err(file.error(format!("it was made with other settings, so it can't go on: {}", changed.join(", "))));
    }
    let mut written = Vec::new();
    for trained in &t.recorded.trained {
        let name = &trained.weight.name;
        let ids = [trained.weight.kept, trained.moments[0], trained.moments[1]];
        for (id, part) in ids.into_iter().zip(STATE) {
            let name = format!("{name}{part}");
            let (values, count) = (file.values(&name)?, t.executor.graph().shape(id).numel());
            if values.len() != count {
                return Err(file.error(format!("tensor {name} has {} values, expected {count}", values.len())));
            }
            written.push((id, values));
        }
    }
    written.iter().try_for_each(|(id, values)| t.executor.write(*id, values))?;
    Ok(step)
}
