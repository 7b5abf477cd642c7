//! What a run of `dmap restore` gives to its page (`--report`).

use super::inputs::Input;
use super::job::Job;
use super::outputs::Finished;
use super::pending::Pending;
use crate::error::{Error, Result, shown};
use crate::image::{Photo, Picture};
use crate::report::{RestorationReport, ShownImage, StepLog, check_place, view, write_page};
use crate::sampler::{MeasurementFile, Progress, method};
use crate::tensor::Shape;
use serde_json::Value;
use std::path::Path;

/// Checks, before any work is done, that a page can be written to `report` beside the results in
/// the folder `out`.
pub(super) fn check_report(report: &Path, out: &Path) -> Result<()> {
    if report == out {
        return Err(Error::Invalid(format!("--report {}: it is the folder of --out", shown(report))));
    }
    check_place(report)
}

/// Notes a step of a traced run, one log per item of the batch. Items with an image size in
/// `wanted` get the estimates of about six steps.
pub(super) fn note_step(logs: &mut [StepLog], now: &Progress<'_>, seconds: f64, wanted: &[Option<Shape>]) {
    let Some(trace) = now.trace else { return };
    let estimates = match StepLog::shows(now.step, now.steps) {
        true => now.estimates().unwrap_or_else(|e| {
            complain!("dmap: {e}");
            None
        }),
        false => None,
    };
    for (k, (log, image)) in logs.iter_mut().zip(wanted).enumerate() {
        log.sigmas.push(now.sigma);
        log.changes.push(trace.change[k].into());
        log.descents.push(trace.descent.get(k).map_or(f64::NAN, |&d| d.into()));
        log.seconds.push(seconds);
        if let (Some(pictures), Some(image)) = (&estimates, image) {
            log.estimates.push((now.step, pictures[k].part(0, 0, image.w, image.h).clamped()));
        }
    }
}

/// Adds an image that this run has restored.
pub(super) fn add_finished(report: &mut RestorationReport, p: &Pending, finished: &Finished) -> Result<()> {
    let of_input = |picture: &Picture| if p.grey { picture.clone().grey() } else { picture.clone() };
    let samples: Vec<Picture> = match p.done.len() {
        1 => Vec::new(),
        _ => p.done.iter().map(|d| of_input(&d.picture)).collect(),
    };
    let mut steps = p.steps.clone();
    steps.estimates.iter_mut().for_each(|(_, picture)| *picture = of_input(picture));
    if steps.descents.iter().all(|d| d.is_nan()) {
        steps.descents.clear();
    }
    let result = serde_json::to_value(&finished.result).map_err(|e| Error::Invalid(e.to_string()))?;
    report.add_image(&ShownImage {
        name: &shown(&p.input.path),
        result: &result,
        measurement: &finished.seen,
        truth: p.truth.as_ref(),
        restored: &finished.restored,
        samples: &samples,
        deviation: finished.deviation.as_ref(),
        steps: Some(&steps),
    })
}

/// Adds an image that an earlier run has restored with the same recipe, from its folder.
pub(super) fn add_earlier(report: &mut RestorationReport, job: &Job, input: &Input) -> Result<()> {
    let folder = job.out.join(&input.name);
    let read = |name: &str| Ok(Photo::read(&folder.join(name))?.picture);
    let path = folder.join("result.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let result: Value = serde_json::from_str(&text).map_err(|e| Error::Invalid(format!("{}: {e}", shown(&path))))?;
    let (restored, samples, deviation) = match job.samples {
        1 => (read("restored.png")?, Vec::new(), None),
        n => {
            let samples = (1..=n).map(|k| read(&format!("restored-{k}.png"))).collect::<Result<_>>()?;
            (read("restored-mean.png")?, samples, Some(read("restored-standard-deviation.png")?))
        }
    };
    // The recipe, which is the same, has the hash of the photo: the truth is what it was.
    let truth = if job.measurement { None } else { Some(Photo::read_with(&input.path, &job.read)?.picture) };
    report.add_image(&ShownImage {
        name: &shown(&input.path),
        result: &result,
        measurement: &seen_earlier(job, &folder, &restored)?,
        truth: truth.as_ref(),
        restored: &restored,
        samples: &samples,
        deviation: deviation.as_ref(),
        steps: None,
    })
}

/// The measurement in an image's folder, as people look at it.
fn seen_earlier(job: &Job, folder: &Path, restored: &Picture) -> Result<Picture> {
    let file = MeasurementFile::read(&folder.join("measurement.safetensors"))?;
    let operator = job.operator.as_ref();
    let image = Shape::new(1, restored.height, restored.width, 3);
    let state = file.state(operator, image)?.unwrap_or_default();
    Ok(view(operator, &operator.picture(&file.y, file.shape), &state, image))
}

/// Writes the page about all images that are finished.
pub(super) fn write_report(job: &Job, report: RestorationReport, path: &Path, seconds: f64) -> Result<()> {
    let settings = &job.settings;
    let task = job.operator.task();
    let facts = [
        ("task", task.clone()),
        ("method", settings.method.method()),
        ("noise levels", settings.steps.to_string()),
        ("model", job.model.name.clone()),
        ("device", format!("{}, {}", job.device.name(), job.precision)),
        ("whole run", format!("{seconds:.1} s")),
        ("program", format!("dmap {}", env!("CARGO_PKG_VERSION"))),
    ];
    let title = format!("{task} by {}", method::name(settings.method.as_ref()));
    write_page(path, &report.page(&title, &facts))?;
    if job.json { Ok(()) } else { say!("look at {}", shown(path)) }
}
