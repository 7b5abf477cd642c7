//! An input becomes a measurement: read, cropped, degraded; or read as the measurement that it is.

use super::inputs::Input;
use super::recipe::{Recipe, noise_text};
use super::restore::Job;
use crate::error::{Error, Result, shown};
use crate::graph::Shape;
use crate::image::{Photo, Picture};
use crate::operator::{Observed, StateOrigin};
use crate::sampler::{Measurement, Noise, Restoration};
use crate::weights::Checkpoint;
use std::fs::File;
use std::path::Path;

/// An image on its way through the sampler.
pub(super) struct Pending {
    pub input: Input,
    pub recipe: Recipe,
    pub truth: Option<Picture>,
    /// One channel in, one channel out.
    pub grey: bool,
    /// Noise that the measurement has, or is said to have.
    pub noise: Noise,
    /// Norm of the noise that was added to a photo's measurement.
    pub noise_norm: Option<f64>,
    pub image: Shape,
    pub measurement: Measurement,
    pub y: Picture,
    pub done: Vec<Restoration>,
    pub seconds: f64,
    /// Keeps other processes out of the image's folder.
    pub claim: Option<File>,
}

/// `0.025`, or `poisson:0.5`.
pub(super) fn parse_noise(text: &str) -> Result<Noise> {
    let (value, poisson) = text.strip_prefix("poisson:").map_or((text, false), |rate| (rate, true));
    match value.parse::<f64>() {
        Ok(rate) if poisson && rate > 0.0 && rate.is_finite() => Ok(Noise::Poisson(rate)),
        Ok(sigma) if !poisson && (0.0..=10.0).contains(&sigma) => Ok(Noise::Gaussian(sigma)),
        _ => Err(Error::Invalid(format!(
            "--noise {text}: write a standard deviation in [0,1] units such as 0.025, or poisson:RATE"
        ))),
    }
}

/// Reads one input and measures it.
pub(super) fn prepare(job: &Job, input: &Input, recipe: Recipe) -> Result<Pending> {
    let operator = job.operator.as_ref();
    let pending = |image, measurement, y, grey, noise| Pending {
        input: input.clone(),
        recipe: recipe.clone(),
        truth: None,
        grey,
        noise,
        noise_norm: None,
        image,
        measurement,
        y,
        done: Vec::new(),
        seconds: 0.0,
        claim: None,
    };
    if job.measurement {
        let given = read_measurement(job, &input.path)?;
        let image = operator.image_shape(Shape::new(1, given.y.height, given.y.width, 3));
        operator.check(image)?;
        let mut values = given.y.values.clone();
        if let Observed::Mask(mask) = operator.observed(&given.state) {
            // Whatever the picture shows at missing pixels is not a measurement.
            values.chunks_mut(3).zip(mask).filter(|(_, m)| **m == 0.0).for_each(|(v, _)| v.fill(0.0));
        }
        let noise_norm = given.noise.expected_norm(&values, operator.observed(&given.state));
        let measurement = Measurement { y: values, state: given.state, noise_norm };
        return Ok(pending(image, measurement, given.y, given.grey, given.noise));
    }
    let Photo { picture: truth, grey, note } = Photo::read_with(&input.path, &job.read)?;
    if let Some(note) = note.filter(|_| !job.json) {
        say!("{}: converted ({note})", shown(&input.path))?;
    }
    let image = Shape::new(1, truth.height, truth.width, 3);
    let noise = job.noise_or_default();
    let simulated = if grey { Measurement::simulate_grey } else { Measurement::simulate };
    let (measurement, drawn) = simulated(operator, image, &truth.values, noise, job.seed)?;
    let shape = operator.measurement_shape(image);
    let y = Picture { width: shape.w, height: shape.h, values: measurement.y.clone() };
    Ok(Pending { truth: Some(truth), noise_norm: Some(drawn), ..pending(image, measurement, y, grey, noise) })
}

/// A measurement as a file gives it.
struct Given {
    y: Picture,
    grey: bool,
    state: Vec<f32>,
    noise: Noise,
}

/// A measurement picture, or a file with `y` (1, h, w, 3) and the operator's `state`.
fn read_measurement(job: &Job, path: &Path) -> Result<Given> {
    let operator = job.operator.as_ref();
    if path.extension().is_some_and(|e| e == "safetensors") {
        return read_measurement_file(job, path);
    }
    let Photo { picture: y, grey, .. } = Photo::read_with(path, &job.read)?;
    let image = operator.image_shape(Shape::new(1, y.height, y.width, 3));
    let state = own_state(job, path, image)?;
    Ok(Given { y, grey, state, noise: job.noise_or_default() })
}

/// The state of a task that says it all: a measurement by a mask or kernel that only its maker knows can't be restored.
fn own_state(job: &Job, path: &Path, image: Shape) -> Result<Vec<f32>> {
    let operator = job.operator.as_ref();
    if let StateOrigin::Drawn { given } = operator.state_origin() {
        return Err(Error::Invalid(format!(
            "{}: task {} draws a mask or kernel at random, which is not the one of this measurement; write --task {given}, or \
             give the measurement.safetensors that brings it",
            shown(path),
            operator.task()
        )));
    }
    operator.draw_state(image, job.seed)
}

/// Largest magnitude in a measurement: far beyond any noise that `--noise` can name.
const LARGEST_VALUE: f32 = 1000.0;

/// A safetensors file with `y`, for some operators `state`, and, where this program wrote it, its task and noise.
fn read_measurement_file(job: &Job, path: &Path) -> Result<Given> {
    let operator = job.operator.as_ref();
    let file = Checkpoint::open(path)?;
    let shape = file.tensors.get("y").map(|t| t.shape.clone()).unwrap_or_default();
    let [1, height, width, 3] = shape[..] else {
        return Err(file.error(format!("tensor y should have shape (1, height, width, 3) but has {shape:?}")));
    };
    if height == 0 || width == 0 {
        return Err(file.error(format!("tensor y has no values: its shape is {shape:?}")));
    }
    let values = file.values("y")?;
    if let Some(v) = values.iter().find(|v| v.abs() > LARGEST_VALUE) {
        return Err(file.error(format!("tensor y holds {v}; a measurement in [-1, 1] plus noise is expected")));
    }
    let recorded = |key: &str| file.metadata.get(key).map(String::as_str);
    let name = |task: &str| task.split(':').next().unwrap_or_default().to_string();
    let task = operator.task();
    let by_file = matches!(operator.state_origin(), StateOrigin::File(_));
    // A task that names a file is compared by what the file holds.
    if let Some(other) = recorded("task").filter(|r| if by_file { name(r) != name(&task) } else { *r != task }) {
        return Err(file.error(format!("it was measured by task {other}, not by {task}; give --task {other}")));
    }
    let noise = match (recorded("noise"), job.noise) {
        (None, _) => job.noise_or_default(),
        (Some(text), None) => parse_noise(text).map_err(|_| file.error(format!("its noise is {text}, not a noise")))?,
        (Some(text), Some(typed)) if parse_noise(text).is_ok_and(|n| n == typed) => typed,
        (Some(text), Some(typed)) => {
            let typed = noise_text(typed);
            return Err(file.error(format!("it was measured with noise {text}, not {typed}; leave --noise out")));
        }
    };
    let image = operator.image_shape(Shape::new(1, height, width, 3));
    let state = match operator.state_shape(image) {
        None => Vec::new(),
        Some(_) if !file.tensors.contains_key("state") => own_state(job, path, image)?,
        Some(expected) => {
            let state = file.values("state")?;
            if state.len() != expected.numel() {
                let reason = format!("tensor state has {} values, task {task} needs {expected}", state.len());
                return Err(file.error(reason));
            }
            operator.check_state(image, &state).map_err(|e| file.error(format!("tensor state: {e}")))?;
            if by_file && operator.draw_state(image, job.seed)? != state {
                return Err(file.error(format!("its mask or kernel is not the one of task {task}")));
            }
            state
        }
    };
    Ok(Given { y: Picture { width, height, values }, grey: recorded("grey") == Some("true"), state, noise })
}
