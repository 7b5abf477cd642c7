//! Collects images until a batch of one size is full, then restores and writes them. A failure
//! loses only the images that it concerns.

use super::inputs::Input;
use super::job::Job;
use super::losses::Losses;
use super::outputs::{suffix, write_results};
use super::pending::Pending;
use super::prepare::prepare;
use super::recipe::recipe_of;
use super::reported::{add_earlier, add_finished, note_step, write_report};
use super::settle::settle;
use super::{go_on, make_folder};
use crate::error::{Error, ErrorKind, Result, shown};
use crate::report::{Recipe, RestorationReport, StepLog};
use crate::sampler::{Item, Restoration, Restorer};
use crate::tensor::Shape;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Restores every input. An input that can't be restored is reported and does not stop the others,
/// unless the device itself has failed. The exit code is 2 if only inputs were at fault, 1 if
/// anything else failed, 130 after Ctrl-C.
pub(super) fn restore_all(job: &Job, inputs: &[Input]) -> Result<ExitCode> {
    let report = job.report.as_ref().map(|_| RestorationReport::new());
    let mut queue = Queue { job, waiting: Vec::new(), ready: None, finished: 0, losses: Losses::default(), report };
    let start = Instant::now();
    let ended = queue.run(inputs);
    // What is finished is reported, whatever ended the run.
    let reported = match (queue.report.take(), &job.report) {
        (Some(report), Some(path)) => write_report(job, report, path, start.elapsed().as_secs_f64()),
        _ => Ok(()),
    };
    match ended {
        Err(Error::Cancelled) => {
            reported.unwrap_or_else(|e| complain!("dmap: {e}"));
            return Ok(ExitCode::from(ErrorKind::Cancelled.exit_code()));
        }
        other => other.and(reported)?,
    }
    let Queue { finished, losses, .. } = queue;
    if losses.count() > 0 && inputs.len() > 1 {
        complain!("dmap: {} of {} inputs could not be restored, {finished} were", losses.count(), inputs.len());
    }
    Ok(losses.exit_code())
}

/// Collects images of one size until a batch is full.
struct Queue<'a> {
    job: &'a Job,
    waiting: Vec<Pending>,
    ready: Option<(Shape, Restorer)>,
    finished: usize,
    losses: Losses,
    report: Option<RestorationReport>,
}

impl Queue<'_> {
    /// Restores all inputs. Fails only if no later input can be restored: after Ctrl-C, or if the
    /// device has failed.
    fn run(&mut self, inputs: &[Input]) -> Result<()> {
        for input in inputs {
            match read(self.job, input) {
                Ok(None) => {
                    if let Some(report) = &mut self.report {
                        add_earlier(report, self.job, input).unwrap_or_else(|e| complain!("dmap: {e}"));
                    }
                }
                Ok(Some(pending)) => {
                    if self.waiting.first().is_some_and(|w| w.image != pending.image) {
                        self.flush()?;
                    }
                    self.waiting.push(pending);
                    let runs = (self.job.samples * self.job.restarts) as usize;
                    if self.waiting.len() * runs >= self.job.batch {
                        self.flush()?;
                    }
                }
                Err(e) => self.lose(&[shown(&input.path)], e)?,
            }
        }
        self.flush()
    }

    /// Reports and counts the images `names` that an error loses. Returns the error if it ends the
    /// run.
    fn lose(&mut self, names: &[String], e: Error) -> Result<()> {
        let said = self.losses.add(names, e)?;
        if let Some(report) = &mut self.report {
            names.iter().for_each(|name| report.add_failure(name, &said));
        }
        Ok(())
    }

    /// Restores and writes all waiting images. An error of this function ends the run.
    fn flush(&mut self) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        while let Err(e) = self.restore(&mut waiting) {
            // If one image is no longer finite, only this image is lost; the others are restored
            // again.
            let lost = match e {
                Error::NotFinite { item: Some(i), .. } => vec![waiting.remove(i)],
                _ => std::mem::take(&mut waiting),
            };
            // Removes the folder if it is empty.
            lost.iter().for_each(|p| drop(std::fs::remove_dir(self.job.out.join(&p.input.name))));
            let names: Vec<String> = lost.iter().map(|p| shown(&p.input.path)).collect();
            let e = match e {
                Error::NotFinite { reason, .. } => Error::NotFinite { item: None, reason },
                other => other,
            };
            self.lose(&names, e)?;
            if waiting.is_empty() {
                return Ok(());
            }
            waiting.iter_mut().for_each(|p| (p.done, p.seconds) = (Vec::new(), 0.0));
        }
        let Some((_, restorer)) = &self.ready else { return Ok(()) };
        let (memory, canvas) = (restorer.memory(), restorer.picture_canvas());
        for mut pending in waiting {
            settle(self.job, &mut pending);
            match write_results(self.job, &pending, memory, canvas) {
                Ok(finished) => {
                    self.finished += 1;
                    if let Some(report) = &mut self.report {
                        add_finished(report, &pending, &finished).unwrap_or_else(|e| complain!("dmap: {e}"));
                    }
                }
                Err(e) => self.lose(&[shown(&pending.input.path)], e)?,
            }
        }
        Ok(())
    }

    /// Restores images of one size, batch by batch. The item of an [`Error::NotFinite`] is the
    /// index in `waiting`.
    fn restore(&mut self, waiting: &mut [Pending]) -> Result<()> {
        let (job, image) = (self.job, waiting[0].image);
        let runs = job.samples * job.restarts;
        let units: Vec<(usize, u32)> = (0..waiting.len()).flat_map(|i| (0..runs).map(move |s| (i, s))).collect();
        let batch = Shape { n: job.batch.min(units.len()), ..image };
        if self.ready.as_ref().is_none_or(|(shape, _)| *shape != batch) {
            self.ready = None;
            let start = Instant::now();
            let restorer = Restorer::new(&job.model, &job.operator, &job.settings, batch, job.plan, &job.device)?;
            if let Some(report) = &mut self.report {
                report.add_restorer(&restorer, start.elapsed().as_secs_f64());
            }
            let canvas = restorer.picture_canvas();
            if (canvas.h, canvas.w) != (image.h, image.w) && !job.json {
                say!(
                    "{}x{} pixels are restored on a canvas of {}x{}, which the model takes, and cropped back",
                    image.w,
                    image.h,
                    canvas.w,
                    canvas.h
                )?;
            }
            self.ready = Some((batch, restorer));
        }
        let Some((_, restorer)) = &mut self.ready else { unreachable!("made above") };
        for part in units.chunks(batch.n) {
            let items: Vec<Item> = (part.iter())
                .map(|&(i, sample)| Item {
                    measurement: waiting[i].measurement.clone(),
                    seed: job.seed,
                    sample,
                    label: job.label,
                })
                .collect();
            let start = Instant::now();
            let (restored, logs) = sample_batch(job, restorer, &items, part, waiting).map_err(|e| match e {
                Error::NotFinite { item: Some(k), reason } => Error::NotFinite { item: Some(part[k].0), reason },
                other => other,
            })?;
            let seconds = start.elapsed().as_secs_f64() / part.len() as f64;
            for ((&(i, sample), restoration), log) in part.iter().zip(restored).zip(logs) {
                let pending = &mut waiting[i];
                // Of the first sample, the run that is kept.
                if sample < job.restarts && pending.done.iter().all(|run| restoration.residual < run.residual) {
                    pending.steps = log;
                }
                pending.done.push(restoration);
                pending.seconds += seconds;
            }
        }
        Ok(())
    }
}

/// Reads an input and claims its folder. None if it was restored before with the same recipe.
fn read(job: &Job, input: &Input) -> Result<Option<Pending>> {
    let recipe = recipe_of(job, &input.path)?;
    let folder = job.out.join(&input.name);
    if !job.overwrite && finished_before(job, input, &recipe, &folder)? {
        return Ok(None);
    }
    let mut pending = prepare(job, input, recipe)?;
    make_folder(&folder)?;
    pending.claim = Some(claim(&folder)?);
    Ok(Some(pending))
}

/// True if the folder of an input contains a result of the same recipe. Fails if it contains a
/// result of another recipe.
fn finished_before(job: &Job, input: &Input, recipe: &Recipe, folder: &Path) -> Result<bool> {
    let path = folder.join("result.json");
    if !path.exists() {
        return Ok(false);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let differences = recipe.differences(&text, &job.model.name);
    if differences.is_empty() {
        if !job.json {
            say!("{}: finished before, skipped (--overwrite restores it again)", shown(&input.path))?;
        }
        return Ok(true);
    }
    Err(Error::Invalid(format!(
        "{}: {} holds the result of another run ({}); give another --out, or --overwrite",
        shown(&input.path),
        shown(folder),
        differences.join("; ")
    )))
}

/// Locks the folder of an image for this process until the returned file is dropped.
fn claim(folder: &Path) -> Result<File> {
    let file = File::open(folder).map_err(Error::io(folder))?;
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => {
            let reason = format!("{}: another process is restoring this image; give another --out", shown(folder));
            Err(Error::Invalid(reason))
        }
        // A file system without locks is used without a lock.
        _ => Ok(file),
    }
}

/// Restores one batch. Gives each restored image with the log of its steps, which is empty unless
/// the run is traced.
fn sample_batch(
    job: &Job,
    restorer: &mut Restorer,
    items: &[Item],
    part: &[(usize, u32)],
    waiting: &[Pending],
) -> Result<(Vec<Restoration>, Vec<StepLog>)> {
    let bar = if job.json { ProgressBar::hidden() } else { ProgressBar::new(job.settings.steps as u64) };
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] step {pos}/{len}, residual {msg}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(waiting[part[0].0].input.name.clone());
    bar.set_message("-");
    let mut logs = vec![StepLog::default(); part.len()];
    let wanted: Vec<Option<Shape>> = part.iter().map(|&(i, s)| (s < job.restarts).then(|| waiting[i].image)).collect();
    let mut before = Instant::now();
    let result = restorer.restore(items, |now| {
        bar.set_position(now.step as u64);
        let mean = now.residual.iter().sum::<f32>() / now.residual.len() as f32;
        if mean.is_finite() {
            bar.set_message(format!("{mean:.2}"));
        }
        note_step(&mut logs, &now, before.elapsed().as_secs_f64() / part.len() as f64, &wanted);
        if job.save_every.is_some_and(|k| now.step % k == 0) {
            let pictures = now.pictures().unwrap_or_else(|e| {
                complain!("dmap: {e}");
                Vec::new()
            });
            for (&(i, sample), picture) in part.iter().zip(pictures) {
                let name = format!("step-{:04}{}.png", now.step, suffix(job.samples * job.restarts, sample));
                if let Err(e) = picture.write_png(&job.out.join(&waiting[i].input.name).join(name)) {
                    complain!("dmap: {e}");
                }
            }
        }
        before = Instant::now();
        go_on()
    });
    bar.finish_and_clear();
    Ok((result?, logs))
}
