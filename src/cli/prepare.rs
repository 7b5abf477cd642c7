//! Makes a measurement from an input: a photo is read, cropped and degraded, or the input is read
//! as a measurement.

use super::inputs::Input;
use super::job::Job;
use super::pending::Pending;
use crate::error::{Error, Result, shown};
use crate::image::Photo;
use crate::operator::StateOrigin;
use crate::report::{Recipe, StepLog};
use crate::sampler::{Measurement, MeasurementFile, Noise};
use crate::tensor::Shape;
use crate::trial::Measured;
use std::path::Path;

/// Reads one input, and measures it if it is a photo.
pub(super) fn prepare(job: &Job, input: &Input, recipe: Recipe) -> Result<Pending> {
    let operator = job.operator.as_ref();
    let pending = |image, measurement, y, grey, noise| Pending {
        input: input.clone(),
        recipe: recipe.clone(),
        truth: None,
        grey,
        noise,
        added_noise_norm: None,
        image,
        measurement,
        y,
        done: Vec::new(),
        tried: Vec::new(),
        form: None,
        seconds: 0.0,
        steps: StepLog::default(),
        claim: None,
    };
    if job.measurement {
        let given = read_measurement(job, &input.path)?;
        let image = operator.image_shape(given.shape);
        operator.check(image)?;
        let expected = operator.measurement_shape(image);
        if expected != given.shape {
            return Err(Error::Invalid(format!(
                "{}: a measurement of {} pixels and {} channels is none of task {}, whose nearest has {} and {}",
                shown(&input.path),
                extents(given.shape),
                given.shape.c,
                operator.task(),
                extents(expected),
                expected.c
            )));
        }
        let y = operator.picture(&given.y, given.shape);
        let (mut values, len) = (given.y, given.shape.numel());
        // Missing values were not measured, whatever the picture shows there: they are set to 0.
        let observed = operator.observed(image, &given.state);
        values.iter_mut().enumerate().filter(|(i, _)| !observed.includes(*i, len)).for_each(|(_, v)| *v = 0.0);
        let noise_norm = given.noise.expected_norm(&values, observed);
        let measurement = Measurement { y: values, state: given.state, noise_norm };
        return Ok(pending(image, measurement, y, given.grey, given.noise));
    }
    let Photo { picture: truth, grey, note } = Photo::read_with(&input.path, &job.read)?;
    if let Some(note) = note.filter(|_| !job.json) {
        say!("{}: converted ({note})", shown(&input.path))?;
    }
    let noise = job.noise_or_default();
    let Measured { truth, image, measurement, drawn, .. } = Measured::new(operator, truth, grey, noise, job.seed)?;
    let y = operator.picture(&measurement.y, operator.measurement_shape(image));
    Ok(Pending { truth: Some(truth), added_noise_norm: Some(drawn), ..pending(image, measurement, y, grey, noise) })
}

/// A measurement that was read from a file.
struct Given {
    y: Vec<f32>,
    /// Shape of y (n = 1).
    shape: Shape,
    grey: bool,
    state: Vec<f32>,
    noise: Noise,
}

fn extents(shape: Shape) -> String {
    format!("{}x{}", shape.w, shape.h)
}

/// Reads a measurement: a picture, or a safetensors file with `y` (1, h, w, c) and the operator's
/// `state`.
fn read_measurement(job: &Job, path: &Path) -> Result<Given> {
    let operator = job.operator.as_ref();
    if path.extension().is_some_and(|e| e == "safetensors") {
        return read_measurement_file(job, path);
    }
    if !operator.measures_pictures() {
        let reason = "its values do not fit into a picture; give them as y (1,H,W,1 or 3) of a safetensors file, such as \
                      the measurement.safetensors of a former run";
        return Err(Error::Invalid(format!("{}: a measurement of {}: {reason}", shown(path), operator.task())));
    }
    let Photo { picture, grey, .. } = Photo::read_with(path, &job.read)?;
    let image = operator.image_shape(Shape::new(1, picture.height, picture.width, 3));
    let state = own_state(job, path, image)?;
    let shape = Shape::new(1, picture.height, picture.width, operator.measurement_shape(image).c);
    let y = match shape.c {
        1 => {
            if !picture.is_grey() && !job.json {
                say!("{}: colours are averaged, because {} measures one channel", shown(path), operator.task())?;
            }
            picture.grey().values.into_iter().step_by(3).collect()
        }
        _ => picture.values,
    };
    // One channel does not say whether the image is grey.
    Ok(Given { y, shape, grey: grey && shape.c == 3, state, noise: job.noise_or_default() })
}

/// The state that follows from the task alone. Fails if the task draws its mask or kernel at
/// random, because the measurement was made with an unknown one.
fn own_state(job: &Job, path: &Path, image: Shape) -> Result<Vec<f32>> {
    let operator = job.operator.as_ref();
    if let StateOrigin::Drawn { given } = operator.state_origin() {
        let other = given.map_or(String::new(), |task| format!("write --task {task}, or "));
        return Err(Error::Invalid(format!(
            "{}: task {} draws a mask or kernel at random, which is not the one of this measurement; {other}give the \
             measurement.safetensors that brings it",
            shown(path),
            operator.task()
        )));
    }
    operator.draw_state(image, job.seed)
}

/// Reads a safetensors file with `y` and optionally `state`, `task` and `noise`. Fails if task,
/// noise or state contradict the flags.
fn read_measurement_file(job: &Job, path: &Path) -> Result<Given> {
    let operator = job.operator.as_ref();
    let file = MeasurementFile::read(path)?;
    file.check_task(operator)?;
    let noise = match (file.noise, job.noise) {
        (None, _) => job.noise_or_default(),
        (Some(recorded), Some(typed)) if recorded != typed => {
            let reason = format!("it was measured with noise {recorded}, not {typed}; leave --noise out");
            return Err(file.error(reason));
        }
        (Some(recorded), _) => recorded,
    };
    let image = file.image_shape(operator);
    let state = match file.state(operator, image)? {
        Some(state) => state,
        None => own_state(job, path, image)?,
    };
    Ok(Given { y: file.y, shape: file.shape, grey: file.grey, state, noise })
}
