//! A budget of seconds as a number of network passes.

use super::inputs::Input;
use super::job::Job;
use super::prepare::prepare;
use super::recipe::recipe_of;
use crate::error::{Error, Result};
use crate::sampler::{Item, Restorer};
use crate::tensor::Shape;
use std::ops::ControlFlow;
use std::time::Instant;

/// Network passes that take so many seconds for one image of the first input's size. Restores it
/// twice with two levels: once so that the device is warm, then the time counts.
pub(super) fn passes_in(seconds: f64, job: &Job, inputs: &[Input]) -> Result<u32> {
    if !(seconds > 0.0 && seconds.is_finite()) {
        return Err(Error::Invalid(format!("--seconds {seconds}: give a time above 0")));
    }
    let Some(first) = inputs.iter().find_map(|i| recipe_of(job, &i.path).and_then(|r| prepare(job, i, r)).ok()) else {
        return Err(Error::Invalid("--seconds: no input could be read".into()));
    };
    let image = Shape { n: job.batch, ..first.image };
    let item = Item::new(first.measurement, job.seed).label(job.label);
    let items = vec![item; job.batch];
    let settings = job.settings.clone().steps(2);
    let mut restorer = Restorer::new(&job.model, &job.operator, &settings, image, job.plan, &job.device)?;
    restorer.restore(&items, |_| ControlFlow::Continue(()))?;
    let start = Instant::now();
    restorer.restore(&items, |_| ControlFlow::Continue(()))?;
    let of_one = start.elapsed().as_secs_f64() / (job.batch * restorer.network_passes()?) as f64;
    let within = (seconds / of_one) as u32;
    if within == 0 {
        return Err(Error::Invalid(format!(
            "--seconds {seconds}: one network pass takes {of_one:.2} s for {}x{} pixels; allow more time, or take --size",
            image.w, image.h
        )));
    }
    complain!(
        "dmap: {seconds} s are {within} network passes of {of_one:.3} s for {}x{} pixels; --passes {within} gives the same \
         images again",
        image.w,
        image.h
    );
    Ok(within)
}
