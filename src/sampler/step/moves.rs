//! Moves of a step: combinations, noise, gradients, descents, spheres, optimisers.

use super::{Scalar, Step};
use crate::error::Result;
use crate::graph::{TensorId, backward};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::adamw::{AdamW, BETAS};
use crate::ops::norm::ResidualNorm;
use crate::ops::normal_noise::NormalNoise;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::sampler::guidance::StepRule;
use crate::sampler::level::{Level, Moment};
use crate::tensor::Shape;
use std::collections::BTreeSet;

impl Step<'_> {
    /// The sum of tensors times scalars. Each batch item has its own values of the scalars.
    pub fn combine(&mut self, name: &str, terms: &[(Scalar, TensorId)]) -> Result<TensorId> {
        let terms: Vec<(usize, TensorId)> = terms.iter().map(|(s, t)| (s.0, *t)).collect();
        self.graph.combine(name, self.coefficients, &terms)
    }

    /// Standard normal noise of x's shape. Its values depend on the item's seed and sample number,
    /// the step, the round and `draw`.
    pub fn normal(&mut self, name: &str, draw: Draw) -> Result<TensorId> {
        let shape = self.setup.canvas();
        let keys = self.graph.input(&format!("{name}.keys"), Shape::rows(shape.n, KEY_WORDS));
        self.keys.push((keys, draw));
        self.graph.one(NormalNoise { shape }, name, &[keys])
    }

    /// The gradient of `objective` with respect to `by`, where `objective` is one scalar per item,
    /// (n, 1, 1, 1).
    pub fn gradient(&mut self, objective: TensorId, by: TensorId) -> Result<TensorId> {
        self.gradients += self.evaluations_behind(objective);
        let n = self.setup.image.n;
        let one = self.graph.constant("one", Shape::rows(n, 1), vec![1.0; n]);
        backward(&mut self.graph, objective, one, by)
    }

    /// J^T `cotangent`, where J is the Jacobian of `output` with respect to `by`.
    pub fn pull_back(&mut self, output: TensorId, cotangent: TensorId, by: TensorId) -> Result<TensorId> {
        self.gradients += self.evaluations_behind(output);
        backward(&mut self.graph, output, cotangent, by)
    }

    /// Number of evaluations of the network that `value` depends on.
    fn evaluations_behind(&self, value: TensorId) -> usize {
        let mut behind = BTreeSet::from([value]);
        for node in self.graph.nodes().iter().rev() {
            if node.outputs.iter().any(|output| behind.contains(output)) {
                behind.extend(&node.inputs);
            }
        }
        self.evaluations.iter().filter(|output| behind.contains(output)).count()
    }

    /// The noise in x_t if the clean image is `x0`: (x_t - sqrt(abar) x0) / sqrt(1 - abar).
    pub fn noise_in(&mut self, x: TensorId, x0: TensorId) -> Result<TensorId> {
        let by_x = self.scalar(|m| (1.0 - m.at.alpha_bar).sqrt().recip());
        let by_x0 = self.scalar(|m| -(m.at.alpha_bar / (1.0 - m.at.alpha_bar)).sqrt());
        self.combine("eps", &[(by_x, x), (by_x0, x0)])
    }

    /// `from`, moved down the gradient of an objective. Polyak's step aims at the norm of the noise
    /// and is at most SHARE times the radius. A published step is ZETA `published(level)` times the
    /// gradient; the factor `published` converts a published step size to VP coordinates. Adam's
    /// step is RATE sqrt(abar' / abar) times the gradient divided by its running root mean square
    /// (AdamDPS). Its moments outlive the level, so one phase of a method may descend once per run.
    pub fn descend(
        &mut self,
        from: TensorId,
        gradient: TensorId,
        objective: TensorId,
        rule: StepRule,
        published: impl Fn(&Level) -> f64 + Send + Sync + 'static,
    ) -> Result<TensorId> {
        if let StepRule::Adam { rate, betas } = rule {
            let rates = [
                self.scalar(move |m| rate * (m.level.alpha_bar_before / m.level.alpha_bar).sqrt()),
                self.constant(0.0),
            ];
            let moved = self.adam_step(from, ["guidance.m", "guidance.v"], gradient, rates, betas, |m| m.earlier)?;
            return self.with_traced_length(from, moved);
        }
        let length = self.scalar(move |m| match rule {
            StepRule::Polyak(share) => share * m.level.radius,
            StepRule::Published(zeta) => zeta * published(&m.level),
            StepRule::Adam { .. } => unreachable!("handled above"),
        });
        let normalised = matches!(rule, StepRule::Polyak(_));
        let op = GuidedStep { step: length.0, floor: self.noise_norm().0, normalised };
        let moved = self.graph.one(op, "step", &[from, gradient, objective, self.coefficients])?;
        self.with_traced_length(from, moved)
    }

    /// `moved`, whose distance from `from` a traced run keeps.
    fn with_traced_length(&mut self, from: TensorId, moved: TensorId) -> Result<TensorId> {
        if self.setup.traced {
            let length = self.graph.one(ResidualNorm, "step.length", &[moved, from])?;
            self.traced.descents.push((length, self.graph.shape(from).item()));
        }
        Ok(moved)
    }

    /// The point of a sphere nearest to x: `centre + radius (x - centre) / || x - centre ||`, per
    /// item.
    pub fn onto_sphere(&mut self, name: &str, x: TensorId, centre: TensorId, radius: Scalar) -> Result<TensorId> {
        self.graph.one(SphereProjection { column: radius.0 }, name, &[x, centre, self.coefficients])
    }

    /// Radius of the sphere on which p(x_{t-1} | x_t) concentrates (see [`Level::radius`]).
    pub fn radius(&mut self) -> Scalar {
        self.scalar(|m| m.level.radius)
    }

    /// One step of AdamW with the usual betas. `names` are the states of the value, the first and
    /// the second moment; the moments must be zero at round 0. `decay` is the weight decay times
    /// the rate. Frozen items keep their value.
    pub fn adamw(&mut self, names: [&'static str; 3], gradient: TensorId, rate: f64, decay: f64) -> Result<()> {
        let rates = [self.unless_frozen(rate, 0.0), self.unless_frozen(decay, 0.0)];
        let [name, moments @ ..] = names;
        let value = self.state(name);
        let next = self.adam_step(value, moments, gradient, rates, BETAS, |m| m.round)?;
        self.set(name, next);
        Ok(())
    }

    /// `value` after one step of AdamW. `moments` are the states of the first and the second
    /// moment, `rates` the learning rate and the weight decay times the rate, and `earlier` the
    /// number of steps since the moments were zero.
    pub fn adam_step(
        &mut self,
        value: TensorId,
        moments: [&'static str; 2],
        gradient: TensorId,
        rates: [Scalar; 2],
        betas: [f64; 2],
        earlier: fn(&Moment) -> usize,
    ) -> Result<TensorId> {
        let corrections = betas.map(|b| self.scalar(move |m| 1.0 / (1.0 - b.powi(earlier(m) as i32 + 1))));
        let [first, second] = moments.map(|name| self.state(name));
        let columns = [rates[0].0, rates[1].0, corrections[0].0, corrections[1].0];
        let inputs = [value, gradient, first, second, self.coefficients];
        let next = self.graph.add(AdamW { columns, betas }, "adamw", &inputs)?;
        moments.into_iter().zip(&next[1..]).for_each(|(name, &moment)| self.set(name, moment));
        Ok(next[0])
    }
}
