//! Inpainting: `y = m x` with one mask m for all channels.

use super::contract::{Observed, Operator, StateOrigin};
use super::spectrum::Spectrum;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::image::read_grey;
use crate::noise::{Draw, NoiseKey, Stream};
use crate::ops::mask::Mask;
use crate::options::Options;
use crate::tensor::Shape;
use std::sync::Arc;

/// The pixels that are missing.
#[derive(Debug)]
pub enum Masked {
    /// A square box. The number is its side as a share of the image's shorter side.
    Box(f64),
    /// This share of the pixels, drawn at random without replacement.
    Random(f64),
    /// The pixels where the picture in this file is darker than half.
    File(String),
}

/// `A(x)`: x where the mask is 1, and 0 (mid grey) where the mask is 0.
#[derive(Debug)]
pub struct Inpaint {
    /// The pixels that are missing.
    pub masked: Masked,
}

pub(super) fn parse_box(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let side = options.number("side", 0.5, 0.01..=0.9)?;
    Ok(Arc::new(Inpaint { masked: Masked::Box(side) }))
}

pub(super) fn parse_random(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let missing = options.number("missing", 0.7, 0.0..=0.999)?;
    Ok(Arc::new(Inpaint { masked: Masked::Random(missing) }))
}

pub(super) fn parse_mask(options: &mut Options) -> Result<Arc<dyn Operator>> {
    let file = options.text("mask").ok_or_else(|| Error::Invalid("write inpaint-mask:mask=FILE".into()))?;
    Ok(Arc::new(Inpaint { masked: Masked::File(file) }))
}

impl Operator for Inpaint {
    fn task(&self) -> String {
        match &self.masked {
            Masked::Box(side) => format!("inpaint-box:side={side}"),
            Masked::Random(missing) => format!("inpaint-random:missing={missing}"),
            Masked::File(file) => format!("inpaint-mask:mask={file}"),
        }
    }

    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape { c: 1, ..x })
    }

    fn draw_state(&self, x: Shape, seed: u64) -> Result<Vec<f32>> {
        let mut random = Stream::new(NoiseKey { seed, image: 0, step: 0, draw: Draw::Operator });
        let mut mask = vec![1.0; x.h * x.w];
        match &self.masked {
            Masked::Box(side) => {
                let side = ((side * x.h.min(x.w) as f64) as usize).max(1);
                // A margin keeps known pixels on every side.
                let margin = x.h.min(x.w) / 16;
                let place = |random: &mut Stream, n: usize| {
                    let free = n.saturating_sub(side + 2 * margin);
                    margin.min((n - side) / 2) + random.below(free + 1)
                };
                let (top, left) = (place(&mut random, x.h), place(&mut random, x.w));
                for row in mask.chunks_mut(x.w).skip(top).take(side) {
                    row[left..left + side].fill(0.0);
                }
            }
            Masked::Random(missing) => {
                let count = (missing * mask.len() as f64) as usize;
                let mut order: Vec<u32> = (0..mask.len() as u32).collect();
                for i in 0..count {
                    let j = i + random.below(order.len() - i);
                    order.swap(i, j);
                    mask[order[i] as usize] = 0.0;
                }
            }
            Masked::File(file) => {
                let (width, height, values) = read_grey(file.as_ref())?;
                if (width, height) != (x.w, x.h) {
                    return Err(Error::Image {
                        path: file.into(),
                        reason: format!("the mask has {width}x{height} pixels, the image {}x{}", x.w, x.h),
                    });
                }
                mask = values.iter().map(|&v| if v < 0.5 { 0.0 } else { 1.0 }).collect();
                let largest = values.iter().fold(0.0, |a: f32, &b| a.max(b));
                if largest < 0.5 {
                    let reason = format!(
                        "every pixel is missing: the largest value of this mask is {} of 255, known pixels have 128 or \
                         more; a mask of values 0 and 1 has to be saved as 0 and 255",
                        (largest * 255.0).round()
                    );
                    return Err(Error::Image { path: file.into(), reason });
                }
            }
        }
        self.check_state(x, &mask)?;
        Ok(mask)
    }

    fn state_origin(&self) -> StateOrigin<'_> {
        match &self.masked {
            Masked::File(file) => StateOrigin::File(file.as_ref()),
            Masked::Box(_) | Masked::Random(_) => StateOrigin::Drawn { given: Some("inpaint-mask:mask=FILE") },
        }
    }

    fn check_state(&self, _: Shape, mask: &[f32]) -> Result<()> {
        if let Some(v) = mask.iter().find(|v| **v != 0.0 && **v != 1.0) {
            return Err(Error::Invalid(format!("the mask holds {v}; a mask is 1 where a pixel is known, else 0")));
        }
        match mask.contains(&1.0) {
            true => Ok(()),
            false => Err(Error::Invalid(format!("{}: every pixel is missing", self.task()))),
        }
    }

    fn observed<'a>(&self, _: Shape, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }

    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> Result<TensorId> {
        let mask = state.ok_or_else(|| Error::Invalid("inpainting needs its mask".into()))?;
        g.one(Mask, "operator.mask", &[x, mask])
    }

    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::pixels(|_, mask| mask.iter().map(|&m| f64::from(m).powi(2)).collect()))
    }
}
