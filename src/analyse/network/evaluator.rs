//! eps and the gradient of the residual norm of a network at x_t, level by level.

use super::NetworkProblem;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::TensorId;
use crate::model::Model;
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::operator::baseline_on_canvas;
use crate::sampler::batch::Batch;
use crate::sampler::{Guidance, Level, Moment, Phase, Phases, Schedule, Settings, Setup, check_condition};
use crate::tensor::Shape;

/// What a network says at x_t.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// eps, by Tweedie's formula from the estimate of x0.
    pub epsilon: Vec<f64>,
    /// The gradient of || A(D(x0(x_t))) - y || with respect to x_t; empty if it is not evaluated.
    pub gradient: Vec<f64>,
}

/// A model, recorded and planned for evaluations at the levels of a schedule.
pub struct Evaluator {
    phase: Phase,
    executor: Executor,
    batch: Batch,
    levels: Vec<Level>,
    x: TensorId,
    epsilon: TensorId,
    gradient: Option<TensorId>,
}

impl Evaluator {
    /// A model at the levels of `schedule`. With a conditional score estimator the score is the
    /// estimator's. Fails if the model does not fit the problem.
    pub fn new(
        problem: &NetworkProblem<'_>,
        model: &Model,
        schedule: &Schedule,
        with_gradient: bool,
    ) -> Result<Evaluator> {
        let (operator, image) = (problem.operator.as_ref(), problem.image);
        let prior = model.network.prior();
        check_condition(model.network.as_ref(), operator, image.c)?;
        if prior.classes.is_some() {
            let reason = format!("{} is class-conditional; an analysis takes a model without classes", model.name);
            return Err(Error::Invalid(reason));
        }
        operator.check(image)?;
        let method = if model.network.condition().is_some() { "cse" } else { "unconditional" };
        let usual = Settings::parse(method, &prior)?.setup(model, operator, image, problem.plan, problem.device)?;
        // The score of the model itself, not of its clamped estimate.
        let setup = Setup { schedule: schedule.clone(), clip: false, ..usual };
        let (mut x, mut epsilon, mut gradient) = (None, None, None);
        let mut phases = Phases::new(&setup);
        phases.add("step", |s| {
            let at = s.x();
            let estimate = s.estimate(at)?;
            let eps = s.noise_in(at, estimate.x0)?;
            s.output("eps", eps);
            if with_gradient {
                let residual = s.residual(estimate.x0, &Guidance::PLAIN)?;
                let slope = s.gradient(residual, at)?;
                s.output("gradient", slope);
                gradient = Some(slope);
            }
            (x, epsilon) = (Some(at), Some(eps));
            Ok(())
        })?;
        let mut phase = phases.finish().remove(0);
        let executor = Executor::new(std::mem::take(&mut phase.graph), &problem.plan, setup.weights, problem.device)?;
        let recorded = || Error::Failed("the step was not recorded".into());
        let mut evaluator = Evaluator {
            batch: batch(problem, &setup, &phase),
            levels: setup.levels(),
            x: x.ok_or_else(recorded)?,
            epsilon: epsilon.ok_or_else(recorded)?,
            gradient,
            phase,
            executor,
        };
        evaluator.phase.write_batch(&mut evaluator.executor, &evaluator.batch)?;
        Ok(evaluator)
    }

    /// The numbers of level `i`.
    pub fn level(&self, i: usize) -> Level {
        self.levels[i]
    }

    /// Evaluates the model at x_t of level `i`. Fails if a value is not finite.
    pub fn at(&mut self, i: usize, x_t: &[f64]) -> Result<Evaluated> {
        let level = self.levels[i];
        let moment = Moment { level, at: level, round: 0, earlier: 0 };
        self.phase.write_moment(&mut self.executor, &moment, &self.batch, &mut Vec::new())?;
        let x: Vec<f32> = x_t.iter().map(|&x| x as f32).collect();
        self.executor.write(self.x, &x)?;
        self.executor.run()?;
        let read = |id| Ok(self.executor.read(id)?.into_iter().map(f64::from).collect::<Vec<f64>>());
        let found = Evaluated { epsilon: read(self.epsilon)?, gradient: self.gradient.map_or(Ok(Vec::new()), read)? };
        if !found.epsilon.iter().chain(&found.gradient).all(|v| v.is_finite()) {
            let reason = format!("the model's score at timestep {} is not finite", level.timestep);
            return Err(Error::NotFinite { item: None, reason });
        }
        Ok(found)
    }
}

fn batch(problem: &NetworkProblem<'_>, setup: &Setup<'_>, phase: &Phase) -> Batch {
    let m = problem.measurement;
    let condition = match phase.reads_condition() {
        true => {
            let canvas = setup.prior.picture_canvas(problem.image);
            baseline_on_canvas(problem.operator.as_ref(), &m.y, &m.state, problem.image, canvas)
        }
        false => Vec::new(),
    };
    Batch {
        y: m.y.clone(),
        state: m.state.clone(),
        condition,
        seeds: vec![(problem.seed, 0)],
        noise_norm: vec![m.noise_norm as f32],
        noise_sigma: vec![m.noise_variance(problem.operator.as_ref(), problem.image).sqrt()],
        is_frozen: vec![false],
        ..Batch::default()
    }
}

/// Standard normal numbers of x's shape: of chain number `chain`, at step `step`.
pub fn noise(seed: u64, chain: u32, step: usize, draw: Draw, canvas: Shape) -> Vec<f64> {
    let key = NoiseKey { seed, image: chain, step: step as u32, draw };
    let mut values = vec![0f32; canvas.item()];
    fill_normal(&key.to_words(), 0, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// One ancestral step from x_t with this eps. The estimate of x0 is limited to [-1, 1] in a pixel
/// model, as samplers limit it.
pub fn ancestral_step(level: &Level, x_t: &[f64], epsilon: &[f64], noise: &[f64], is_latent: bool) -> Vec<f64> {
    let (signal, spread) = (level.alpha_bar.sqrt(), (1.0 - level.alpha_bar).sqrt());
    let next = |((x, e), n): ((&f64, &f64), &f64)| {
        let x0 = (x - spread * e) / signal;
        let x0 = if is_latent { x0 } else { x0.clamp(-1.0, 1.0) };
        level.mean_x0 * x0 + level.mean_x * x + level.posterior_sigma * n
    };
    x_t.iter().zip(epsilon).zip(noise).map(next).collect()
}
