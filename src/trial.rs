//! A trial: a photo is measured, restored and compared with itself.

use crate::backend::Device;
use crate::error::Result;
use crate::graph::PlanOptions;
use crate::image::Picture;
use crate::metrics::{psnr, ssim};
use crate::model::Model;
use crate::operator::{Operator, baseline};
use crate::sampler::{Item, Measurement, Noise, Restoration, Restorer, Settings};
use crate::tensor::Shape;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// What is tried, on which device.
#[derive(Clone)]
pub struct Trial<'a> {
    /// The prior.
    pub model: &'a Model,
    /// Class of a class-conditional prior.
    pub label: Option<u32>,
    /// The operator that degrades the photos.
    pub operator: &'a Arc<dyn Operator>,
    /// Method, levels and schedule.
    pub settings: Settings,
    /// Noise of the measurement.
    pub noise: Noise,
    /// Seed of mask, kernel, measurement noise and sampler.
    pub seed: u64,
    /// Samples per photo, at least 1.
    pub samples: u32,
    /// Runs per sample, at least 1; the one with the smallest residual is kept.
    pub restarts: u32,
    /// Storage type and memory budget.
    pub plan: PlanOptions,
    /// The device to run on.
    pub device: &'a Device,
}

/// A photo and its measurement, which every method that is tried on it gets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Measured {
    /// The photo.
    pub truth: Picture,
    /// True if the photo has one channel; what is restored then has one too.
    pub grey: bool,
    /// Its shape (n = 1).
    pub image: Shape,
    /// What is known of it.
    pub measurement: Measurement,
    /// Norm of the noise that was drawn, in [-1, 1] units.
    pub drawn: f64,
}

impl Measured {
    /// Measures a photo. The seed determines noise, mask and kernel; all channels of a grey photo
    /// get the same noise.
    pub fn new(operator: &dyn Operator, truth: Picture, grey: bool, noise: Noise, seed: u64) -> Result<Measured> {
        let image = Shape::new(1, truth.height, truth.width, 3);
        let simulate = if grey { Measurement::simulate_grey } else { Measurement::simulate };
        let (measurement, drawn) = simulate(operator, image, &truth.values, noise, seed)?;
        Ok(Measured { truth, grey, image, measurement, drawn })
    }
}

/// The restorer of a trial, kept for the next photo of the same size.
#[derive(Default)]
pub struct Ready(Option<(Shape, Restorer)>);

/// How well a photo was restored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Score {
    /// PSNR of the mean of the samples, in dB.
    pub psnr: f64,
    /// SSIM of the mean of the samples.
    pub ssim: f64,
    /// PSNR of a sample in dB, averaged over the samples.
    pub sample_psnr: f64,
    /// Standard deviation between the samples, root mean square over the values, in [-1, 1] units.
    /// 0 for one sample.
    pub deviation: f64,
    /// Continuous ranked probability score in [-1, 1] units, averaged over the values (Gneiting and
    /// Raftery 2007, with the unbiased mean over pairs): E|x - truth| - E|x - x'| / 2. Less is
    /// better, and it is least for draws of the posterior. For one sample the mean absolute error.
    pub crps: f64,
    /// PSNR of the naive restoration in dB.
    pub baseline: f64,
    /// Residual norm over the norm of the noise that was drawn, averaged over the samples.
    pub residual_ratio: f64,
    /// Network passes of all samples.
    pub passes: usize,
    /// Seconds of all samples, without planning.
    pub seconds: f64,
    /// Mean of the samples.
    pub picture: Picture,
}

impl Trial<'_> {
    /// Measures and restores photos. Photos of one size share a restorer. `go_on` is asked after
    /// every step; if it breaks, the error is [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn run(&self, truths: &[Picture], go_on: impl Fn() -> ControlFlow<()>) -> Result<Vec<Score>> {
        let mut scores = Vec::new();
        self.run_each(truths, go_on, |_, score| {
            scores.push(score.clone());
            Ok(())
        })?;
        Ok(scores)
    }

    /// The same, and gives each photo's number and score to `each` as soon as it is restored. An
    /// error of `each` ends the run.
    pub fn run_each(
        &self,
        truths: &[Picture],
        go_on: impl Fn() -> ControlFlow<()>,
        mut each: impl FnMut(usize, &Score) -> Result<()>,
    ) -> Result<()> {
        let mut ready = Ready::default();
        for (k, truth) in truths.iter().enumerate() {
            let measured = Measured::new(self.operator.as_ref(), truth.clone(), false, self.noise, self.seed)?;
            each(k, &self.score(&measured, &mut ready, &go_on)?)?;
        }
        Ok(())
    }

    /// Restores one photo from its measurement.
    pub fn score(&self, measured: &Measured, ready: &mut Ready, go_on: &impl Fn() -> ControlFlow<()>) -> Result<Score> {
        let Measured { truth, image, measurement, drawn, .. } = measured;
        let (operator, image) = (self.operator.as_ref(), *image);
        let restorer = match &mut ready.0 {
            Some((shape, restorer)) if *shape == image => restorer,
            _ => {
                // The old one goes first: there may not be memory for both.
                ready.0 = None;
                let new = Restorer::new(self.model, self.operator, &self.settings, image, self.plan, self.device)?;
                &mut ready.0.insert((image, new)).1
            }
        };
        let start = Instant::now();
        let (mut pictures, mut residual) = (Vec::new(), 0.0);
        for sample in 0..self.samples {
            let mut run = |restart: u32| {
                let item = Item::new(measurement.clone(), self.seed).label(self.label);
                let item = item.sample(sample * self.restarts + restart);
                Ok(restorer.restore(&[item], |_| go_on())?.remove(0))
            };
            let runs = (0..self.restarts.max(1)).map(&mut run).collect::<Result<Vec<_>>>()?;
            let restored = least_residual(runs.into_iter()).expect("a sample has at least one run");
            residual += restored.residual / f64::from(self.samples);
            pictures.push(match nearest_form(operator, &restored.picture, truth) {
                Some((_, form)) => form,
                None => restored.picture,
            });
        }
        let seconds = start.elapsed().as_secs_f64();
        let (_, naive) = baseline(operator, &measurement.y, &measurement.state, image);
        let naive = if measured.grey { naive.grey() } else { naive };
        let spread = Spread::of(&pictures, truth);
        let mut picture = Picture { values: spread.mean, ..truth.clone() };
        if measured.grey {
            picture = picture.grey();
            residual = measurement.residual(operator, image, &picture)?;
        }
        Ok(Score {
            psnr: psnr(&picture, truth),
            ssim: ssim(&picture, truth),
            sample_psnr: pictures.iter().map(|p| psnr(p, truth)).sum::<f64>() / f64::from(self.samples),
            deviation: spread.deviation,
            crps: spread.crps,
            baseline: psnr(&naive, truth),
            residual_ratio: residual / drawn,
            passes: restorer.network_passes()? * (self.samples * self.restarts) as usize,
            seconds,
            picture,
        })
    }
}

/// Of several runs of a sample the one whose residual is smallest; none of none.
pub fn least_residual(runs: impl Iterator<Item = Restoration>) -> Option<Restoration> {
    // Without its sign a residual that is not a number comes last.
    runs.min_by(|a, b| a.residual.abs().total_cmp(&b.residual.abs()))
}

/// The form of `x`, among those with the same measurement, that is nearest to `other`, and what was
/// done to it. None if it is x itself.
pub fn nearest_form(operator: &dyn Operator, x: &Picture, other: &Picture) -> Option<(&'static str, Picture)> {
    let as_it_is = psnr(x, other);
    let forms = operator.equivalents(x).into_iter().map(|(what, form)| (psnr(&form, other), what, form));
    let best = forms.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > as_it_is).then_some((best.1, best.2))
}

/// How samples lie around their mean and around the truth.
struct Spread {
    mean: Vec<f32>,
    deviation: f64,
    crps: f64,
}

impl Spread {
    fn of(samples: &[Picture], truth: &Picture) -> Spread {
        let (m, values) = (samples.len(), truth.values.len());
        let mut mean = vec![0.0; values];
        let (mut variance, mut error, mut distance) = (0.0, 0.0, 0.0);
        for (i, mean) in mean.iter_mut().enumerate() {
            let drawn: Vec<f64> = samples.iter().map(|s| f64::from(s.values[i])).collect();
            let centre = drawn.iter().sum::<f64>() / m as f64;
            *mean = centre as f32;
            variance += drawn.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / m as f64;
            error += drawn.iter().map(|x| (x - f64::from(truth.values[i])).abs()).sum::<f64>() / m as f64;
            for (k, x) in drawn.iter().enumerate() {
                distance += drawn[..k].iter().map(|y| (x - y).abs()).sum::<f64>();
            }
        }
        let pairs = (m * (m - 1) / 2).max(1) as f64;
        let count = values as f64;
        Spread { mean, deviation: (variance / count).sqrt(), crps: (error - distance / pairs / 2.0) / count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::parse_task;

    #[test]
    fn an_image_is_brought_into_the_form_nearest_to_another() {
        let operator = parse_task("phase-retrieval").unwrap();
        let truth = Picture { width: 4, height: 2, values: (0..24).map(|k| k as f32 / 24.0 - 0.3).collect() };
        assert!(nearest_form(operator.as_ref(), &truth, &truth).is_none());
        for (what, form) in operator.equivalents(&truth) {
            // Every form is its own inverse.
            let (named, back) = nearest_form(operator.as_ref(), &form, &truth).unwrap();
            assert_eq!((named, back.values), (what, truth.values.clone()));
        }
        assert!(nearest_form(parse_task("sr2").unwrap().as_ref(), &truth, &truth).is_none());
    }

    #[test]
    fn a_run_whose_residual_is_no_number_is_not_the_best() {
        let run = |residual| Restoration {
            picture: Picture { width: 0, height: 0, values: Vec::new() },
            residual,
            residuals: Vec::new(),
        };
        for nan in [f64::NAN, -f64::NAN] {
            let best = least_residual([nan, 2.0, 1.0, 3.0].map(run).into_iter());
            assert_eq!(best.unwrap().residual, 1.0);
        }
    }

    #[test]
    fn draws_around_the_truth_score_better_than_a_point_that_misses_it() {
        let picture = |values: &[f32; 3]| Picture { width: 1, height: 1, values: values.to_vec() };
        let truth = picture(&[0.0, 0.2, -0.4]);
        let spread = |samples: &[[f32; 3]]| Spread::of(&samples.iter().map(picture).collect::<Vec<_>>(), &truth);
        let both = spread(&[[0.1, 0.3, -0.3], [-0.1, 0.1, -0.5]]);
        // E|x - truth| is 0.1 and the only pair is 0.2 apart.
        assert!(both.crps.abs() < 1e-6 && (both.deviation - 0.1).abs() < 1e-6);
        assert_eq!(both.mean.iter().map(|v| (v * 10.0).round()).collect::<Vec<_>>(), [0.0, 2.0, -4.0]);
        let one = spread(&[[0.1, 0.3, -0.3]]);
        assert!((one.crps - 0.1).abs() < 1e-6 && one.deviation == 0.0);
    }
}
