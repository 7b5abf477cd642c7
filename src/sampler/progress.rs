//! The progress of a run, and x as a picture.

use super::chain::Machine;
use super::trace::Trace;
use crate::backend::Device;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::TensorId;
use crate::image::Picture;
use crate::tensor::Shape;
use std::sync::Mutex;

/// The progress of a run after a step.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Noise level at which the step began: sigma in VE coordinates of images in [-1, 1].
    pub sigma: f64,
    /// Residual norm of each item as it was last reported, in [-1, 1] units: of the whitened
    /// residual if the method whitens it.
    pub residual: &'a [f32],
    /// What a run whose [`Settings`](super::Settings) are traced keeps of this step, with one entry
    /// per item of the batch.
    pub trace: Option<&'a Trace>,
    pub(super) machine: &'a Machine,
    pub(super) device: &'a Device,
    pub(super) shape: Shape,
    pub(super) decoder: Option<&'a Mutex<Decoder>>,
}

impl Progress<'_> {
    /// The batch as pictures of the canvas size, not cropped. Latents are decoded.
    pub fn pictures(&self) -> Result<Vec<Picture>> {
        let x = self.x()?;
        let _turn = self.device.turn();
        x.chunks(self.shape.item()).map(|x| picture(self.decoder, self.shape, x)).collect()
    }

    /// The estimates of the clean image at this step as pictures of the canvas size, not cropped.
    /// Latents are decoded. None for a run that is not traced and for methods that make none.
    pub fn estimates(&self) -> Result<Option<Vec<Picture>>> {
        let Some(trace) = self.trace.filter(|t| !t.estimate.is_empty()) else { return Ok(None) };
        let _turn = self.device.turn();
        let decoded = trace.estimate.chunks(self.shape.item()).map(|x| picture(self.decoder, self.shape, x));
        decoded.collect::<Result<_>>().map(Some)
    }

    /// x of the whole batch as it is now, (n, h, w, c) of the canvas. Each call reads it from the
    /// device.
    pub fn x(&self) -> Result<Vec<f32>> {
        let mut x = vec![0.0; self.shape.numel()];
        let _turn = self.device.turn();
        self.machine.read_state("x", &mut x)?;
        Ok(x)
    }
}

/// The decoder of a latent model, one latent at a time.
pub(super) struct Decoder {
    pub executor: Executor,
    pub z: TensorId,
    pub image: TensorId,
}

/// One item of x as a picture. A latent is decoded if there is a decoder.
pub(super) fn picture(decoder: Option<&Mutex<Decoder>>, canvas: Shape, x: &[f32]) -> Result<Picture> {
    let Some(decoder) = decoder else {
        return Ok(Picture { width: canvas.w, height: canvas.h, values: x.to_vec() });
    };
    let mut d = decoder.lock().unwrap_or_else(|e| e.into_inner());
    let (z, image) = (d.z, d.image);
    d.executor.write(z, x)?;
    d.executor.run()?;
    let s = d.executor.graph().shape(image);
    let values = d.executor.read(image)?;
    if !values.iter().all(|v| v.is_finite()) {
        d.executor.run_stepwise()?;
    }
    Ok(Picture { width: s.w, height: s.h, values })
}
