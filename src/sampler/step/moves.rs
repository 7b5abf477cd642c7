//! Moves of a step: combinations, noise, gradients, descents, spheres, optimisers.

use super::{Scalar, Step};
use crate::error::Result;
use crate::graph::{TensorId, backward};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::adamw::AdamW;
use crate::ops::normal_noise::NormalNoise;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::sampler::guidance::StepRule;
use crate::sampler::level::Level;
use crate::tensor::Shape;

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
        self.gradients += self.evaluations;
        let n = self.setup.image.n;
        let one = self.graph.constant("one", Shape::rows(n, 1), vec![1.0; n]);
        backward(&mut self.graph, objective, one, by)
    }

    /// J^T `cotangent`, where J is the Jacobian of `output` with respect to `by`.
    pub fn pull_back(&mut self, output: TensorId, cotangent: TensorId, by: TensorId) -> Result<TensorId> {
        self.gradients += self.evaluations;
        backward(&mut self.graph, output, cotangent, by)
    }

    /// The noise in x_t if the clean image is `x0`: (x_t - sqrt(abar) x0) / sqrt(1 - abar).
    pub fn noise_in(&mut self, x: TensorId, x0: TensorId) -> Result<TensorId> {
        let by_x = self.scalar(|m| (1.0 - m.at.alpha_bar).sqrt().recip());
        let by_x0 = self.scalar(|m| -(m.at.alpha_bar / (1.0 - m.at.alpha_bar)).sqrt());
        self.combine("eps", &[(by_x, x), (by_x0, x0)])
    }

    /// `from`, moved down the gradient of an objective. Polyak's step aims at the norm of the noise
    /// and is at most SHARE times the radius. A published step is ZETA `published(level)` times the
    /// gradient; the factor `published` converts a published step size to VP coordinates.
    pub fn descend(
        &mut self,
        from: TensorId,
        gradient: TensorId,
        objective: TensorId,
        rule: StepRule,
        published: impl Fn(&Level) -> f64 + Send + Sync + 'static,
    ) -> Result<TensorId> {
        let length = self.scalar(move |m| match rule {
            StepRule::Polyak(share) => share * m.level.radius,
            StepRule::Published(zeta) => zeta * published(&m.level),
        });
        let normalised = matches!(rule, StepRule::Polyak(_));
        let op = GuidedStep { step: length.0, floor: self.noise_norm().0, normalised };
        self.graph.one(op, "step", &[from, gradient, objective, self.coefficients])
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

    /// One step of AdamW. `names` are the states of the value, the first and the second moment; the
    /// moments must be zero at round 0. `decay` is the weight decay times the rate. Frozen items
    /// keep their value.
    pub fn adamw(&mut self, names: [&'static str; 3], gradient: TensorId, rate: f64, decay: f64) -> Result<()> {
        let correction = |decay: f64, round: usize| 1.0 / (1.0 - decay.powi(round as i32 + 1));
        let columns = [
            self.unless_frozen(rate, 0.0),
            self.unless_frozen(decay, 0.0),
            self.scalar(move |m| correction(0.9, m.round)),
            self.scalar(move |m| correction(0.999, m.round)),
        ];
        let [value, first, second] = names.map(|name| self.state(name));
        let op = AdamW { columns: columns.map(|c| c.0) };
        let next = self.graph.add(op, "adamw", &[value, gradient, first, second, self.coefficients])?;
        names.into_iter().zip(next).for_each(|(name, value)| self.set(name, value));
        Ok(())
    }
}
