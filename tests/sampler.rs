//! Samplers on a linear-Gaussian problem whose posterior is known, and the promises about batches
//! and seeds.
//!
//! The prior: pixels in pairs of neighbouring columns, each pair normal with covariance s2 [[1, r],
//! [r, 1]]. Its denoiser is linear, so the chain is exact. What is measured, without noise, is
//! - the mean of each pair: the posterior of both pixels is normal, its mean and mode are the measured value, and their half
//!   difference has the prior's variance s2 (1 - r) / 2, or
//! - one pixel of each pair: the posterior of the other has mean and mode r y and variance s2 (1 - r^2). Here a step along
//!   J^T (x0hat - y), J the denoiser's Jacobian, moves the other pixel by (J J^T)_12 / (J J^T)_11 of what the seen one
//!   moves, at high noise 2 r / (1 + r^2) > r: the known bias of the DPS likelihood, which the test pins down as well.

use dmap::backend::Device;
use dmap::error::Result;
use dmap::graph::{Graph, PlanOptions, Reverse, Shape, Tensor, TensorId};
use dmap::model::{Conditioning, Model, Network, NoiseSchedule, Prior};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::{Operator, parse_task};
use dmap::ops::axis_filter::{Axis, AxisFilter, Taps};
use dmap::ops::{CpuArguments, Op, Output};
use dmap::sampler::methods::Dmap;
use dmap::sampler::through::Through;
use dmap::sampler::{
    Guidance, Item, Measurement, Measurer, Restoration, Restorer, Schedule, Settings, Spacing, StepRule, Variance,
    parse_method,
};
use dmap::weights::Weights;
use std::ops::ControlFlow;
use std::sync::Arc;

const S2: f64 = 0.09;
const R: f64 = 0.8;

/// eps of the pair prior: x_t = a x_0 + b eps, so E[eps | x_t] = b (a^2 C + b^2)^-1 x_t, a
/// symmetric map of each pair.
#[derive(Debug, Clone)]
struct PairEps {
    alpha_bar: Vec<f64>,
}

impl Op for PairEps {
    fn name(&self) -> &'static str {
        "pair_eps"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, t) = (r.dout(0)?, r.input(1));
        // The map is symmetric: its adjoint is itself.
        let dx = r.graph.one(self.clone(), "pair.vjp", &[dout, t])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let s = launch.input_shapes[0];
        for n in 0..s.n {
            let a2 = self.alpha_bar[launch.inputs[1][n] as usize];
            let b2 = 1.0 - a2;
            // (a2 C + b2)^-1 has eigenvectors (1, 1) and (1, -1).
            let (plus, minus) = (b2.sqrt() / (a2 * S2 * (1.0 + R) + b2), b2.sqrt() / (a2 * S2 * (1.0 - R) + b2));
            let (same, other) = ((plus + minus) / 2.0, (plus - minus) / 2.0);
            for p in 0..s.h * s.w {
                for c in 0..s.c {
                    let at = |p: usize| (n * s.h * s.w + p) * s.c + c;
                    let x = launch.inputs[0];
                    launch.outputs[0][at(p)] = (same * f64::from(x[at(p)]) + other * f64::from(x[at(p ^ 1)])) as f32;
                }
            }
        }
    }
}

#[derive(Debug)]
struct PairPrior;

impl Network for PairPrior {
    fn prior(&self) -> Prior {
        let mut prior = Prior::of_pixels();
        prior.size_multiple = 2;
        prior
    }
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, _: &Conditioning) -> Result<TensorId> {
        let alpha_bar = Schedule::new(NoiseSchedule::Linear, 1000, 1000, Spacing::Linear)?.alpha_bar;
        g.one(PairEps { alpha_bar }, "pair", &[x, t])
    }
}

/// Sees every second column.
#[derive(Debug)]
struct EverySecondColumn;

impl Operator for EverySecondColumn {
    fn task(&self) -> String {
        "every-second-column".into()
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let s = g.shape(x);
        let mask = (0..s.n * s.h * s.w).map(|p| if p % 2 == 0 { 1.0 } else { 0.0 }).collect();
        let mask = g.constant("mask", Shape { c: 1, ..s }, mask);
        g.one(dmap::ops::mask::Mask, "mask", &[x, mask])
    }
}

/// Sees the mean of each pair.
#[derive(Debug)]
struct PairMean;

impl Operator for PairMean {
    fn task(&self) -> String {
        "pair-mean".into()
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { w: x.w / 2, ..x }
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> Result<TensorId> {
        let w = g.shape(x).w;
        let rows = (0..w / 2).map(|j| vec![(2 * j, 0.5), (2 * j + 1, 0.5)]).collect();
        g.one(AxisFilter { axis: Axis::Width, taps: Arc::new(Taps { rows, inputs: w }) }, "pair.mean", &[x])
    }
}

const IMAGE: Shape = Shape::new(1, 32, 64, 3);

/// A measurement of a draw from the prior, and what the sampler makes of it.
fn restore(operator: Arc<dyn Operator>, settings: &Settings) -> (Vec<f32>, Restoration) {
    let model = Model { network: Arc::new(PairPrior), weights: Weights::none(), name: "pair".into(), warning: None };
    let mut x = vec![0.0; IMAGE.numel()];
    fill_normal(&NoiseKey { seed: 8, image: 0, step: 0, draw: Draw::Measurement }.to_words(), 0, &mut x);
    for pair in x.chunks_mut(6) {
        for c in 0..3 {
            pair[c] *= S2.sqrt() as f32;
            pair[c + 3] = R as f32 * pair[c] + ((S2 * (1.0 - R * R)).sqrt() as f32) * pair[c + 3];
        }
    }
    let y = Measurer::new(operator.as_ref(), IMAGE).unwrap().apply(&x, &[]).unwrap();
    let mut restorer =
        Restorer::new(&model, &operator, settings, IMAGE, PlanOptions::default(), &Device::cpu()).unwrap();
    restorer.set_poison(true);
    let item = Item::new(Measurement::new(y.clone(), vec![], 0.0), 1);
    let restored = restorer.restore(&[item], |_| ControlFlow::Continue(())).unwrap().remove(0);
    (y, restored)
}

/// Pairs of values (left, right) of every pair of pixels.
fn pairs(x: &[f32]) -> Vec<(f64, f64)> {
    x.chunks(6).flat_map(|p| (0..3).map(|c| (p[c].into(), p[c + 3].into())).collect::<Vec<_>>()).collect()
}

/// Slope of b over a, and the mean square of b around that line.
fn regression(points: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let count = points.clone().count() as f64;
    let slope = points.clone().map(|(a, b)| a * b).sum::<f64>() / points.clone().map(|(a, _)| a * a).sum::<f64>();
    (slope, points.map(|(a, b)| (b - slope * a).powi(2)).sum::<f64>() / count)
}

fn rms(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    (values.map(|v| v * v).sum::<f64>() / count).sqrt()
}

fn settings(method: &str, steps: usize) -> Settings {
    Settings::parse(method, &PairPrior.prior()).unwrap().steps(steps).clip(false).spacing(Spacing::Linear)
}

fn unconditional(steps: usize) -> Settings {
    settings("unconditional", steps)
}

#[test]
fn the_unconditional_chain_samples_the_prior() {
    let (_, restored) = restore(Arc::new(PairMean), &unconditional(250));
    let p = pairs(&restored.picture.values);
    let variance = rms(p.iter().flat_map(|p| [p.0, p.1])).powi(2);
    let covariance = p.iter().map(|p| p.0 * p.1).sum::<f64>() / p.len() as f64;
    // 3072 pairs: a standard error of 2.5 %.
    assert!((variance / S2 - 1.0).abs() < 0.08, "variance {variance}");
    assert!((covariance / variance - R).abs() < 0.03, "correlation {}", covariance / variance);
}

#[test]
fn dps_and_dmap_reach_the_posterior_mean_and_leave_the_unseen_to_the_prior() {
    for s in [
        settings("dmap:k=2,step=polyak:0.3", 100),
        settings("dmap:k=4,step=published:4", 100),
        settings("dps:step=published:3", 400),
    ] {
        let (y, restored) = restore(Arc::new(PairMean), &s);
        let p = pairs(&restored.picture.values);
        let y: Vec<f64> = y.iter().map(|&v| v.into()).collect();
        let miss = rms(p.iter().zip(&y).map(|(p, y)| (p.0 + p.1) / 2.0 - y));
        assert!(miss < 0.05 * S2.sqrt(), "{s:?}: the measured means miss by {miss}");
        let (slope, variance) = regression(y.iter().zip(&p).map(|(y, p)| (*y, (p.0 - p.1) / 2.0)));
        assert!(slope.abs() < 0.03, "{s:?}: the unseen difference follows the measurement with slope {slope}");
        // Following the projection to the sphere, what the seen part gains in norm the unseen part
        // loses.
        let share = variance / (S2 * (1.0 - R) / 2.0);
        assert!(share > 0.6 && share < 1.3, "{s:?}: variance of the unseen is {share} of the posterior's");
        let reported = restored.residual / (y.len() as f64).sqrt();
        assert!((reported - miss).abs() < 1e-3 * miss + 1e-7, "the reported residual is that of the image");
    }
}

#[test]
fn the_likelihood_through_the_denoiser_has_its_known_bias() {
    for s in [
        settings("dmap:k=4,step=polyak:0.1", 500),
        settings("dmap:k=1,step=published:4", 1000),
        settings("dps:step=published:3", 1000),
    ] {
        let (y, restored) = restore(Arc::new(EverySecondColumn), &s);
        let (seen, p) = (pairs(&y), pairs(&restored.picture.values));
        let miss = rms(p.iter().zip(&seen).map(|(p, y)| p.0 - y.0));
        assert!(miss < 0.1 * S2.sqrt(), "{s:?}: the measured pixels miss by {miss}");
        let (slope, around) = regression(seen.iter().zip(&p).map(|(y, p)| (y.0, p.1)));
        let bias = 2.0 * R / (1.0 + R * R);
        assert!(slope > R && slope < bias + 0.02, "{s:?}: slope {slope} between {R} and {bias}");
        assert!(around < 1.2 * S2 * (1.0 - R * R), "{s:?}: variance {around}");
    }
}

#[test]
fn without_a_step_dps_is_the_unconditional_chain() {
    let (_, dps) = restore(Arc::new(PairMean), &settings("dps:step=published:0", 30));
    let (_, prior) = restore(Arc::new(PairMean), &unconditional(30));
    assert_eq!(dps.picture, prior.picture);
}

#[test]
fn dmap_with_a_step_of_zero_is_finite() {
    let (_, restored) = restore(Arc::new(PairMean), &settings("dmap:k=1,step=polyak:0", 20));
    assert!(restored.picture.values.iter().all(|v| v.is_finite()));
}

/// The shipped prior on small pictures with a mask or kernel, and noise, of their own each.
fn photo_items(task: &str) -> (Arc<dyn Operator>, Shape, Vec<Item>) {
    let operator = parse_task(task).unwrap();
    let image = Shape::new(1, 16, 24, 3);
    let items = (0..3).map(|k| {
        let state = operator.draw_state(image, k).unwrap();
        let x: Vec<f32> = (0..image.numel()).map(|i| (i as f32 * 0.1 + k as f32).sin() * 0.5).collect();
        let y = Measurer::new(operator.as_ref(), image).unwrap().apply(&x, &state).unwrap();
        Item::new(Measurement::new(y, state, k as f64), k / 2).sample(k as u32)
    });
    (operator.clone(), image, items.collect())
}

#[test]
fn batch_size_and_order_never_change_an_image() {
    let model = Model::shipped().unwrap();
    for (method, task) in [
        ("dps", "inpaint-random"),
        ("dmap", "inpaint-random"),
        ("dmap", "motion-blur:size=9"),
        ("dpir:noise=0.5,views=2", "motion-blur:size=9"),
        // Items whose optimisation ends at different steps.
        ("sitcom:k=12,rate=0.2", "inpaint-random"),
        ("resample:iterations=60,rate=0.05", "inpaint-random"),
    ] {
        let (operator, image, items) = photo_items(task);
        let settings = Settings::parse(method, &model.network.prior()).unwrap().steps(4);
        let run = |items: &[Item], n: usize| -> Vec<Restoration> {
            let shape = Shape { n, ..image };
            let mut r =
                Restorer::new(&model, &operator, &settings, shape, PlanOptions::default(), &Device::cpu()).unwrap();
            r.restore(items, |_| ControlFlow::Continue(())).unwrap()
        };
        let alone: Vec<Restoration> = items.iter().flat_map(|i| run(std::slice::from_ref(i), 1)).collect();
        let together = run(&items, 3);
        let reversed = run(&items.iter().rev().cloned().collect::<Vec<_>>(), 3);
        let in_a_larger_batch = run(&items[..2], 3);
        for k in 0..3 {
            assert_eq!(alone[k].picture, together[k].picture, "{method} {task} {k}");
            assert_eq!(alone[k].picture, reversed[2 - k].picture, "{method} {task} {k}");
            assert_eq!(alone[k].residuals, together[k].residuals);
        }
        assert_eq!(in_a_larger_batch.len(), 2);
        assert_eq!(in_a_larger_batch[1].picture, alone[1].picture);
        assert_ne!(alone[0].picture, alone[1].picture);
    }
}

#[test]
fn a_run_can_be_stepped_and_stopped() {
    let model = Model::shipped().unwrap();
    let (operator, image, items) = photo_items("inpaint-random");
    let settings = Settings::parse("dmap", &model.network.prior()).unwrap().steps(5);
    let mut r = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    let whole = r.restore(&items[..1], |_| ControlFlow::Continue(())).unwrap();
    let mut run = r.start(&items[..1]).unwrap();
    let mut steps = 0;
    while let Some(now) = run.step().unwrap() {
        steps += 1;
        assert_eq!((now.step, now.steps), (steps, 5));
    }
    assert_eq!(run.finish().unwrap()[0].picture, whole[0].picture);
    let mut seen = 0;
    let stopped = r.restore(&items[..1], |now| {
        seen = now.step;
        if now.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(dmap::Error::Cancelled)) && seen == 2);
}

/// A run whose steps are watched gives the same image, and what it keeps agrees with x and with the
/// bounds of a step.
#[test]
fn a_traced_run_gives_the_same_image_and_tells_its_steps() {
    let model = Model::shipped().unwrap();
    let (operator, image, items) = photo_items("sr2");
    let (image, steps, share) = (Shape { n: 2, ..image }, 4, 0.3);
    let usual = Settings::parse("dmap:k=2,step=polyak:0.3", &model.network.prior()).unwrap().steps(steps);
    let (device, plan) = (Device::cpu(), PlanOptions::default());
    let levels = usual.setup(&model, operator.as_ref(), image, plan, &device).unwrap().levels();
    let restorer =
        |traced| Restorer::new(&model, &operator, &usual.clone().traced(traced), image, plan, &device).unwrap();

    let (mut plain, mut traced) = (restorer(false), restorer(true));
    let mut run = plain.start(&items[..2]).unwrap();
    while let Some(now) = run.step().unwrap() {
        assert!(now.trace.is_none() && now.estimates().unwrap().is_none());
    }
    let expected = run.finish().unwrap();

    let canvas = traced.canvas().item();
    let mut run = traced.start(&items[..2]).unwrap();
    let mut before: Option<Vec<f32>> = None;
    while let Some(now) = run.step().unwrap() {
        let (x, level, trace) = (now.x().unwrap(), levels[steps - now.step], now.trace.unwrap());
        let estimates = now.estimates().unwrap().unwrap();
        assert_eq!((now.sigma, estimates.len()), (level.sigma(), 2));
        for (k, x) in x.chunks(canvas).enumerate() {
            let far = |from: &[f32]| rms(x.iter().zip(from).map(|(a, b)| f64::from(a - b)));
            if let Some(before) = &before {
                let moved = far(&before[k * canvas..][..canvas]);
                assert!((moved - f64::from(trace.change[k])).abs() < 1e-4 * moved, "step {}", now.step);
            }
            assert!(estimates[k].values.iter().all(|v| v.abs() <= 1.0), "it is clamped");
            // At the last level no step is taken, and the estimate becomes the image.
            if level.is_last() {
                assert!(trace.descent.is_empty() && far(&estimates[k].values) < 1e-4);
            } else {
                let (length, most) = (f64::from(trace.descent[k]), share * level.posterior_sigma);
                assert!(length > 0.0 && length < 1.0001 * most, "step {}: {length}, at most {most}", now.step);
                assert!(now.step > 1 || far(&estimates[k].values) > 0.1, "x still has noise");
            }
        }
        before = Some(x);
    }
    for (a, b) in run.finish().unwrap().iter().zip(&expected) {
        assert!(a.picture == b.picture && a.residuals == b.residuals);
    }
}

#[test]
fn what_cannot_work_is_refused_in_a_sentence() {
    let model = Model::shipped().unwrap();
    let (operator, image, items) = photo_items("inpaint-random");
    let new = |settings: &Settings, image: Shape| {
        Restorer::new(&model, &operator, settings, image, PlanOptions::default(), &Device::cpu()).map(|_| ())
    };
    let good = Settings::parse("dmap", &model.network.prior()).unwrap();
    let says = |r: Result<()>, words: &str| {
        let message = r.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    says(new(&good.clone().steps(0), image), "0 steps");
    says(new(&good.clone().eta(0.0), image), "eta 0");
    says(new(&good.clone().steps(1001), image), "1 to 1000");
    let unlimited = Dmap { k: 5, guidance: Guidance::new(StepRule::Polyak(f64::NAN)), through: Through::Both };
    says(new(&Settings::new(Arc::new(unlimited), 6), image), "step is polyak:NaN");
    let idle = Dmap { k: 0, guidance: Guidance::new(StepRule::Polyak(0.4)), through: Through::Both };
    says(new(&Settings::new(Arc::new(idle), 6), image), "k=0 would ignore the measurement");
    says(parse_method("dmap:step=polyak:much").map(|_| ()), "step is polyak:much, expected polyak:SHARE");
    says(parse_method("dmap:k=3,k=4").map(|_| ()), "k is given twice");
    says(parse_method("dps:k=3").map(|_| ()), "unknown option k (options: step=polyak:0.3");
    says(parse_method("dsp").map(|_| ()), "did you mean");
    says(new(&good.clone().variance(Variance::LearnedRange), image), "did not learn");
    says(new(&good, Shape { c: 4, ..image }), "channels");
    let mut r = Restorer::new(&model, &operator, &good, image, PlanOptions::default(), &Device::cpu()).unwrap();
    assert!(r.start(&[]).is_err() && r.start(&items).is_err());
    let mut wrong = items[0].clone();
    wrong.measurement.y.pop();
    assert!(r.start(&[wrong]).is_err());
}
