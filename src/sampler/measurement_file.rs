//! The file of a measurement: y, the mask or kernel of operators that have one, and task and noise
//! if this program wrote the file.

use super::measurement::Noise;
use crate::error::{Error, Result};
use crate::operator::{Operator, StateOrigin};
use crate::tensor::Shape;
use crate::weights::Checkpoint;
use std::path::Path;

/// Largest |y| that is accepted. Larger values are refused: they are far beyond any noise that the
/// program can add, and beyond the moduli of large images.
const LARGEST_VALUE: f32 = 10_000.0;

/// A `measurement.safetensors`.
pub struct MeasurementFile {
    /// The measurement y.
    pub y: Vec<f32>,
    /// Its shape (n = 1).
    pub shape: Shape,
    /// True if the measured photo had one channel.
    pub grey: bool,
    /// The task that measured it, if the file names it.
    pub task: Option<String>,
    /// The noise in y, if the file names it.
    pub noise: Option<Noise>,
    file: Checkpoint,
}

impl MeasurementFile {
    /// Opens a safetensors file with a tensor `y` of shape (1, height, width, 1 or 3). The tensor
    /// `state` and the metadata `task`, `noise` and `grey` are optional.
    pub fn read(path: &Path) -> Result<MeasurementFile> {
        let file = Checkpoint::open(path)?;
        let Some(shape) = file.tensors.get("y").map(|t| t.shape.clone()) else {
            return Err(file.error("it has no tensor y; a measurement is y of shape (1, height, width, 1 or 3)"));
        };
        let [1, height, width, channels @ (1 | 3)] = shape[..] else {
            return Err(file.error(format!("tensor y should have shape (1, height, width, 1 or 3) but has {shape:?}")));
        };
        if height == 0 || width == 0 {
            return Err(file.error(format!("tensor y has no values: its shape is {shape:?}")));
        }
        let y = file.values("y")?;
        if let Some(v) = y.iter().find(|v| v.abs() > LARGEST_VALUE) {
            return Err(file.error(format!("tensor y holds {v}; a measurement in [-1, 1] plus noise is expected")));
        }
        let recorded = |key: &str| file.metadata.get(key).cloned();
        let (grey, task) = (recorded("grey").is_some_and(|g| g == "true"), recorded("task"));
        let noise = match recorded("noise") {
            None => None,
            Some(text) => {
                Some(text.parse().map_err(|_: Error| file.error(format!("its noise is {text}, not a noise")))?)
            }
        };
        Ok(MeasurementFile { y, shape: Shape::new(1, height, width, channels), grey, task, noise, file })
    }

    /// Shape of the image that was measured (n = 1).
    pub fn image_shape(&self, operator: &dyn Operator) -> Shape {
        operator.image_shape(self.shape)
    }

    /// Fails if the file names another task. If the task reads its mask or kernel from a file, only
    /// the task names are compared here; [`MeasurementFile::state`] compares the contents.
    pub fn check_task(&self, operator: &dyn Operator) -> Result<()> {
        let name = |task: &str| task.split(':').next().unwrap_or_default().to_string();
        let task = operator.task();
        let by_file = matches!(operator.state_origin(), StateOrigin::File(_));
        match self.task.as_ref().filter(|r| if by_file { name(r) != name(&task) } else { **r != task }) {
            Some(other) => {
                Err(self.error(format!("it was measured by task {other}, not by {task}; give --task {other}")))
            }
            None => Ok(()),
        }
    }

    /// The operator's mask or kernel, checked for images of shape `image` (n = 1). Empty for
    /// operators without one; none if the file does not contain it.
    pub fn state(&self, operator: &dyn Operator, image: Shape) -> Result<Option<Vec<f32>>> {
        let Some(expected) = operator.state_shape(image) else { return Ok(Some(Vec::new())) };
        if !self.file.tensors.contains_key("state") {
            return Ok(None);
        }
        let (state, task) = (self.file.values("state")?, operator.task());
        if state.len() != expected.numel() {
            return Err(self.error(format!("tensor state has {} values, task {task} needs {expected}", state.len())));
        }
        operator.check_state(image, &state).map_err(|e| self.error(format!("tensor state: {e}")))?;
        // A state that is read from a file does not depend on the seed, so 0 serves.
        if matches!(operator.state_origin(), StateOrigin::File(_)) && operator.draw_state(image, 0)? != state {
            return Err(self.error(format!("its mask or kernel is not the one of task {task}")));
        }
        Ok(Some(state))
    }

    /// An error about this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        self.file.error(reason)
    }
}
