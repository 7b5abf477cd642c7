//! A run of a restorer, which the caller steps.

use super::Restorer;
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::sampler::batch::Batch;
use crate::sampler::progress::{Progress, picture};

/// Number of steps between two checks that x is finite.
const FINITE_EVERY: usize = 4;

/// One restored image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Restoration {
    /// The image, limited to [-1, 1].
    pub picture: Picture,
    /// || A(x) - y || of the image.
    pub residual: f64,
    /// Residual norm at every step: of the whitened residual if the method whitens it.
    pub residuals: Vec<f32>,
}

/// A run between two steps.
pub struct Run<'a> {
    pub(super) restorer: &'a mut Restorer,
    pub(super) batch: Batch,
    /// Number of steps that are left.
    pub(super) left: usize,
    /// Residual norms of each item at the steps so far.
    pub(super) residuals: Vec<Vec<f32>>,
    /// Number of items that the caller gave; the batch may have more.
    pub(super) count: usize,
    /// The largest |x| at the last check.
    pub(super) largest: f32,
}

impl Run<'_> {
    /// Takes one step. Gives none if all steps are done. Fails if x or a residual norm is not
    /// finite.
    pub fn step(&mut self) -> Result<Option<Progress<'_>>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        // A step runs several graphs that pass values to each other in shared memory: other threads
        // must wait until it is done.
        let device = self.restorer.device.clone();
        let turn = device.turn();
        if let Some(trace) = &mut self.batch.trace {
            trace.begin_step();
        }
        let mut chain = self.restorer.machine.chain(self.left, &mut self.batch);
        self.restorer.settings.method.run(&mut chain)?;
        chain.finish()?;
        if self.restorer.machine.is_reported() {
            for (trace, &r) in self.residuals.iter_mut().zip(&self.batch.residual) {
                trace.push(r);
            }
        }
        let step = self.restorer.settings.steps - self.left;
        // The gradient of an infinite norm is zero: the run would go on without the measurement.
        // NaN needs no check here, because it soon reaches x.
        if let Some(i) = self.batch.residual.iter().position(|r| r.is_infinite()) {
            return Err(self.not_finite(i, "the residual is infinite"));
        }
        // Reading x stalls the device, so x is checked only every few steps, unless it is traced.
        if step % FINITE_EVERY == 0 || self.left == 0 || self.batch.trace.is_some() {
            let mut x = vec![0.0; self.batch.x.len()];
            self.restorer.machine.read_state("x", &mut x)?;
            if let Some(trace) = &mut self.batch.trace {
                trace.measure_change(&self.batch.x, &x, self.restorer.canvas.item());
            }
            self.batch.x = x;
            if let Some(i) = self.batch.x.iter().position(|v| !v.is_finite()) {
                return Err(self.not_finite(i / self.restorer.canvas.item(), "x is not finite"));
            }
            self.largest = self.batch.x.iter().fold(0.0, |m, v| v.abs().max(m));
        }
        drop(turn);
        Ok(Some(Progress {
            step,
            steps: self.restorer.settings.steps,
            sigma: self.restorer.machine.levels()[self.left].sigma(),
            residual: &self.batch.residual[..self.count],
            trace: self.batch.trace.as_ref(),
            machine: &self.restorer.machine,
            device: &self.restorer.device,
            shape: self.restorer.canvas,
            decoder: self.restorer.decoder.as_ref(),
        }))
    }

    fn not_finite(&self, item: usize, what: &str) -> Error {
        let r = &self.restorer;
        let (steps, stored, advice) = (r.settings.steps, r.storage.name(), r.advice(self.largest));
        let step = steps - self.left;
        let reason = format!(
            "{what} after step {step} of {steps} in {stored}; {advice} (with DMAP_STEPWISE=1 the message names the node)"
        );
        // A short batch is filled up with copies of its last image.
        Error::NotFinite { item: Some(item.min(self.count - 1)), reason }
    }

    /// The images as they are now.
    pub fn finish(mut self) -> Result<Vec<Restoration>> {
        let device = self.restorer.device.clone();
        let _turn = device.turn();
        if self.left < self.restorer.settings.steps {
            self.restorer.machine.read_state("x", &mut self.batch.x)?;
        }
        let (canvas, image) = (self.restorer.canvas, self.restorer.image);
        let y_item = self.restorer.measurer.measurement_shape().numel();
        let mut out = Vec::with_capacity(self.count);
        for (n, x) in self.batch.x.chunks(canvas.item()).take(self.count).enumerate() {
            let of_item = |e: Error| match e {
                Error::NotFinite { reason, .. } => {
                    let advice = self.restorer.advice(self.largest);
                    Error::NotFinite { item: Some(n), reason: format!("the decoder: {reason}; {advice}") }
                }
                other => other,
            };
            let whole = picture(self.restorer.decoder.as_ref(), canvas, x).map_err(of_item)?;
            let picture = whole.part(0, 0, image.w, image.h).clamped();
            let state = &self.batch.state[n * self.restorer.state_item..][..self.restorer.state_item];
            let seen = self.restorer.measurer.apply(&picture.values, state)?;
            let y = &self.batch.y[n * y_item..][..y_item];
            let squares: f64 = seen.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            if !squares.is_finite() {
                let reason = format!("the residual of the restored image is {}", squares.sqrt());
                return Err(Error::NotFinite { item: Some(n), reason });
            }
            out.push(Restoration { picture, residual: squares.sqrt(), residuals: self.residuals[n].clone() });
        }
        Ok(out)
    }
}
