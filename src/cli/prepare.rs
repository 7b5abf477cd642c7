//! An input becomes a measurement: read, cropped, degraded; or read as the measurement that it is.

use super::inputs::Input;
use super::restore::Job;
use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::image::Picture;
use crate::operator::Operator;
use crate::sampler::{Measurement, Measurer, Noise, Restoration};
use crate::weights::Checkpoint;
use std::path::Path;

/// An image on its way through the sampler.
pub(super) struct Pending {
    pub input: Input,
    pub truth: Option<Picture>,
    pub clean_to_noisy: Option<f64>,
    pub image: Shape,
    pub measurement: Measurement,
    pub y: Picture,
    pub done: Vec<Restoration>,
    pub seconds: f64,
}

/// `0.025`, or `poisson:0.5`.
pub(super) fn parse_noise(text: &str) -> Result<Noise> {
    let (value, poisson) = text.strip_prefix("poisson:").map_or((text, false), |rate| (rate, true));
    match value.parse::<f64>() {
        Ok(rate) if poisson && rate > 0.0 && rate.is_finite() => Ok(Noise::Poisson(rate)),
        Ok(sigma) if !poisson && (0.0..=10.0).contains(&sigma) => Ok(Noise::Gaussian(sigma)),
        _ => Err(Error::Invalid(format!(
            "--noise {text}: write a deviation in [0,1] units such as 0.025, or poisson:RATE"
        ))),
    }
}

/// Reads one input and measures it.
pub(super) fn prepare(job: &Job, input: &Input) -> Result<Pending> {
    let operator = job.operator.as_ref();
    if job.measurement {
        let (measurement, y) = read_measurement(job, &input.path)?;
        let image = operator.image_shape(Shape::new(1, y.height, y.width, 3));
        return Ok(Pending {
            input: input.clone(),
            truth: None,
            clean_to_noisy: None,
            image,
            measurement,
            y,
            done: Vec::new(),
            seconds: 0.0,
        });
    }
    let (mut truth, note) = Picture::read(&input.path)?;
    if let Some(note) = note.filter(|_| !job.json) {
        println!("{}: converted ({note})", input.path.display());
    }
    if let Some((w, h)) = job.size {
        truth = truth.centre_crop(w, h);
    }
    let image = Shape::new(1, truth.height, truth.width, 3);
    let mut measurer = Measurer::new(operator, image)?;
    let state = operator.draw_state(image, job.seed)?;
    let mut values = measurer.apply(&truth.values, &state)?;
    let clean = values.clone();
    job.noise.apply(&mut values, job.seed, |i| is_measured(operator, image, &state, i));
    let norm = values.iter().zip(&clean).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let shape = measurer.measurement_shape();
    Ok(Pending {
        input: input.clone(),
        truth: Some(truth),
        clean_to_noisy: Some(norm),
        image,
        y: Picture { width: shape.w, height: shape.h, values: values.clone() },
        measurement: measurement(job, image, values, state),
        done: Vec::new(),
        seconds: 0.0,
    })
}

/// True unless value `i` of a masked image is missing.
fn is_measured(operator: &dyn Operator, image: Shape, state: &[f32], i: usize) -> bool {
    let masked = operator.state_shape(image).is_some_and(|s| s.numel() == image.h * image.w);
    !masked || state[i / 3] != 0.0
}

fn measurement(job: &Job, image: Shape, y: Vec<f32>, state: Vec<f32>) -> Measurement {
    let noise_norm = job.noise.expected_norm(&y, |i| is_measured(job.operator.as_ref(), image, &state, i));
    Measurement { y, state, noise_norm }
}

/// A measurement picture, or a file with `y` (1, h, w, 3) and the operator's `state`.
fn read_measurement(job: &Job, path: &Path) -> Result<(Measurement, Picture)> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        let file = Checkpoint::open(path)?;
        let shape = file.tensors.get("y").map(|t| t.shape.clone()).unwrap_or_default();
        let [1, height, width, 3] = shape[..] else {
            return Err(file.error(format!("tensor y should have shape (1, height, width, 3) but has {shape:?}")));
        };
        let y = file.values("y")?;
        let image = job.operator.image_shape(Shape::new(1, height, width, 3));
        let state = match job.operator.state_shape(image) {
            None => Vec::new(),
            Some(expected) => {
                let state = file.values("state")?;
                if state.len() != expected.numel() {
                    let reason = format!(
                        "tensor state has {} values, task {} needs {expected}",
                        state.len(),
                        job.operator.task()
                    );
                    return Err(file.error(reason));
                }
                state
            }
        };
        let picture = Picture { width, height, values: y.clone() };
        return Ok((measurement(job, image, y, state), picture));
    }
    let y = Picture::read(path)?.0;
    let image = job.operator.image_shape(Shape::new(1, y.height, y.width, 3));
    job.operator.check(image)?;
    let state = job.operator.draw_state(image, job.seed)?;
    let mut values = y.values.clone();
    if job.operator.state_shape(image).is_some_and(|s| s.numel() == image.h * image.w) {
        // Whatever the picture shows at missing pixels is not a measurement.
        values.chunks_mut(3).zip(&state).filter(|(_, m)| **m == 0.0).for_each(|(v, _)| v.fill(0.0));
    }
    Ok((measurement(job, image, values, state), y))
}
