//! A step of a sampler, recorded with the operations that papers use.
//!
//! [`Step`] holds the graph of one phase of a method. Its functions are the operations that papers
//! use: Tweedie's estimate of x_0, the residual norm, the posterior p(x_{t-1} | x_t), a gradient, a
//! step along it, noise, states. Numbers that change from level to level are [`Scalar`]s; tensors
//! that outlive a run are states. All phases of a method share a state by its name.

use super::guidance::{Guidance, StepRule};
use super::level::{Level, Moment};
use super::phase::{COLUMNS, Column, MeasurementInputs, Phase, StateUse};
use super::schedule::Variance;
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId, backward};
use crate::model::Conditioning;
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::adamw::AdamW;
use crate::ops::concat::ChannelSlice;
use crate::ops::crop::Crop;
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::norm::ResidualNorm;
use crate::ops::normal_noise::NormalNoise;
use crate::ops::pointwise::Clamp;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::tensor::Shape;

/// A number that the host computes before each run of a graph, with one value per batch item. It is
/// a column of the graph's input `coefficients`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scalar(usize);

/// Tweedie's estimate of x_0 at some x.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The x at which the network was evaluated.
    pub x: TensorId,
    /// Output of the network at `x`: eps or v, followed by the variance channels if the model
    /// learned them.
    pub output: TensorId,
    /// E[x_0 | x_t]. For pixel models it is clamped to [-1, 1] if the settings say so.
    pub x0: TensorId,
    /// The variance channels, if the model learned them.
    variance: Option<TensorId>,
}

/// p(x_{t-1} | x_t), a normal distribution.
#[derive(Clone, Copy, Debug)]
pub struct Posterior {
    /// The mean.
    pub mean: TensorId,
    /// A sample.
    pub sample: TensorId,
}

/// Records one phase of a method.
pub struct Step<'a> {
    /// Model, operator, shapes and schedule.
    pub setup: &'a Setup<'a>,
    /// The graph. A method may record ops in it for which no function exists here.
    pub graph: Graph,
    t: TensorId,
    labels: Option<TensorId>,
    coefficients: TensorId,
    columns: Vec<Column>,
    keys: Vec<(TensorId, Draw)>,
    states: Vec<StateUse>,
    measurement: Option<MeasurementInputs>,
    reported: Option<TensorId>,
    outputs: Vec<(&'static str, TensorId)>,
    evaluations: usize,
    gradients: usize,
}

impl<'a> Step<'a> {
    /// An empty step.
    pub(super) fn new(setup: &'a Setup<'a>) -> Step<'a> {
        let mut graph = Graph::new();
        let rows = |c| Shape::rows(setup.image.n, c);
        Step {
            setup,
            t: graph.input("t", rows(1)),
            labels: setup.prior.classes.map(|_| graph.input("labels", rows(1))),
            coefficients: graph.input("coefficients", rows(COLUMNS)),
            graph,
            columns: Vec::new(),
            keys: Vec::new(),
            states: Vec::new(),
            measurement: None,
            reported: None,
            outputs: Vec::new(),
            evaluations: 0,
            gradients: 0,
        }
    }

    // Numbers.

    /// A number that is computed from the [`Moment`] before each run.
    pub fn scalar(&mut self, value: impl Fn(&Moment) -> f64 + Send + Sync + 'static) -> Scalar {
        self.column(Column::Of(Box::new(value)))
    }

    /// A number that is computed from the [`Moment`] and the standard deviation of the noise in
    /// each item's measurement. The standard deviation is in [-1, 1] units and never less than the
    /// error of rounding to 8 bits.
    pub fn scalar_of_noise(&mut self, value: impl Fn(&Moment, f64) -> f64 + Send + Sync + 'static) -> Scalar {
        self.column(Column::OfNoise(Box::new(value)))
    }

    /// A number that never changes.
    pub fn constant(&mut self, value: f64) -> Scalar {
        self.scalar(move |_| value)
    }

    /// The expected norm of the noise in each item's measurement, 0 where it is unknown. Steps
    /// should not reduce the residual norm below it.
    pub fn noise_norm(&mut self) -> Scalar {
        self.column(Column::NoiseNorm)
    }

    /// `frozen` for items that [`Chain::freeze`](super::chain::Chain::freeze) has frozen, `moving`
    /// for the others.
    pub fn unless_frozen(&mut self, moving: f64, frozen: f64) -> Scalar {
        self.column(Column::Frozen(frozen, moving))
    }

    fn column(&mut self, column: Column) -> Scalar {
        self.columns.push(column);
        Scalar(self.columns.len() - 1)
    }

    // States.

    /// x of the chain before the run, (n, h, w, c) of the canvas, in VP coordinates.
    pub fn x(&mut self) -> TensorId {
        self.state("x")
    }

    /// Sets the value of x after the run.
    pub fn set_x(&mut self, value: TensorId) {
        self.set("x", value);
    }

    /// A tensor of x's shape that outlives a run. It is zero at the start of a batch. Phases share
    /// it by name.
    pub fn state(&mut self, name: &'static str) -> TensorId {
        self.state_of(name, self.setup.canvas(), None)
    }

    /// A state of shape `shape` that starts each batch with the values `start`, or with zeros if
    /// none are given.
    pub fn state_of(&mut self, name: &'static str, shape: Shape, start: Option<Vec<f32>>) -> TensorId {
        let (graph, state) = (&mut self.graph, Step::used(&mut self.states, name));
        state.start = start.or(state.start.take());
        *state.input.get_or_insert_with(|| graph.input(name, shape))
    }

    /// Sets the value of a state after the run. Within this phase, [`Step::state`] still gives the
    /// old value.
    pub fn set(&mut self, name: &'static str, value: TensorId) {
        Step::used(&mut self.states, name).next = Some(value);
    }

    fn used<'s>(states: &'s mut Vec<StateUse>, name: &'static str) -> &'s mut StateUse {
        let place = states.iter().position(|s| s.name == name).unwrap_or_else(|| {
            states.push(StateUse { name, input: None, next: None, start: None });
            states.len() - 1
        });
        &mut states[place]
    }

    // The model.

    /// x0 = E[x_0 | x_t] at `x` by Tweedie's formula. For pixel models it is clamped to [-1, 1] if
    /// the settings say so.
    pub fn estimate(&mut self, x: TensorId) -> Result<Estimate> {
        let output = self.evaluated(x, None)?;
        self.estimate_of(x, output)
    }

    /// The same with a text embedding per item, (n, 1, tokens, channels), in place of the model's
    /// own.
    pub fn estimate_with_text(&mut self, x: TensorId, text: TensorId) -> Result<Estimate> {
        let output = self.evaluated(x, Some(text))?;
        self.estimate_of(x, output)
    }

    fn evaluated(&mut self, x: TensorId, text: Option<TensorId>) -> Result<TensorId> {
        let given = Conditioning::default().labels(self.labels).text(text);
        self.setup.network.record(&mut self.graph, x, self.t, &given)
    }

    fn estimate_of(&mut self, x: TensorId, output: TensorId) -> Result<Estimate> {
        self.evaluations += 1;
        let (prior, g) = (&self.setup.prior, &mut self.graph);
        let c = prior.channels;
        let (predicted, variance) = if prior.learn_sigma {
            let eps = g.one(ChannelSlice { start: 0, len: c }, "eps", &[output])?;
            (eps, Some(g.one(ChannelSlice { start: c, len: c }, "v", &[output])?))
        } else {
            (output, None)
        };
        let (by_x, by_output) = (self.scalar(|m| m.at.clean_x), self.scalar(|m| m.at.clean_output));
        let mut x0 = self.combine("x0", &[(by_x, x), (by_output, predicted)])?;
        // Latents have no fixed range to clamp to.
        if self.setup.clip && prior.latent.is_none() {
            x0 = self.graph.one(Clamp { low: -1.0, high: 1.0 }, "x0.clip", &[x0])?;
        }
        Ok(Estimate { x, output, x0, variance })
    }

    /// The image of a clean x: the decoder's output for a latent model, else x itself.
    pub fn decode(&mut self, x0: TensorId) -> Result<TensorId> {
        self.setup.network.codec().map_or(Ok(x0), |codec| codec.decode(&mut self.graph, x0))
    }

    /// The mean of p(x_{t-1} | x_t) and a sample.
    pub fn posterior(&mut self, e: Estimate) -> Result<Posterior> {
        let (by_x0, by_x) = (self.scalar(|m| m.level.mean_x0), self.scalar(|m| m.level.mean_x));
        let mean = self.combine("mean", &[(by_x0, e.x0), (by_x, e.x)])?;
        let noise = self.normal("noise", Draw::Ancestral)?;
        let sample = match e.variance.filter(|_| self.setup.variance == Variance::LearnedRange) {
            Some(v) => {
                let columns = [
                    self.scalar(|m| m.level.log_beta),
                    self.scalar(|m| m.level.log_beta_tilde),
                    self.scalar(|m| if m.level.is_last() { 0.0 } else { 1.0 }),
                ];
                let op = LearnedNoise { columns: columns.map(|c| c.0) };
                self.graph.one(op, "sample", &[mean, v, noise, self.coefficients])?
            }
            None => {
                let (one, deviation) = (self.constant(1.0), self.scalar(|m| m.level.deviation));
                self.combine("sample", &[(one, mean), (deviation, noise)])?
            }
        };
        Ok(Posterior { mean, sample })
    }

    // The measurement.

    /// y
    pub fn y(&mut self) -> TensorId {
        self.measurement().y
    }

    /// A(x) of the image that `whole`, a canvas, contains. The canvas is cropped if it is larger
    /// than the image.
    pub fn measured(&mut self, whole: TensorId) -> Result<TensorId> {
        let (image, state) = (self.setup.image, self.measurement().state);
        let seen = match self.graph.shape(whole) == image {
            true => whole,
            false => self.graph.one(Crop { h: image.h, w: image.w }, "crop", &[whole])?,
        };
        self.setup.operator.build(&mut self.graph, seen, state)
    }

    /// || A(D(x0)) - y || per item, (n, 1, 1, 1). D is the decoder of a latent model, else the
    /// identity. The residual is whitened (see [`super::whitening`]) if the guidance says so and
    /// the operator has a spectrum in the cosine transform.
    pub fn residual(&mut self, x0: TensorId, guidance: &Guidance) -> Result<TensorId> {
        let whole = self.decode(x0)?;
        let a = self.measured(whole)?;
        let y = self.y();
        let Some(deviation) = guidance.whitening(self.setup.operator) else {
            return self.graph.one(ResidualNorm, "residual", &[a, y]);
        };
        let weights = self.whitening_weights(deviation)?;
        self.setup.whitened(&mut self.graph, a, y, weights)
    }

    fn measurement(&mut self) -> &mut MeasurementInputs {
        let (s, g) = (self.setup, &mut self.graph);
        self.measurement.get_or_insert_with(|| MeasurementInputs {
            y: g.input("y", s.measurement_shape()),
            state: s.operator.state_shape(s.image).map(|shape| g.input("state", shape)),
            whitening: None,
        })
    }

    fn whitening_weights(&mut self, deviation: f64) -> Result<TensorId> {
        self.measurement();
        let (image, y) = (self.setup.image, self.setup.measurement_shape());
        if y != image {
            return Err(Error::Invalid(format!(
                "{} gives a spectrum, but its measurement has the extent {y} where the image has {image}; a spectrum is for \
                 operators that keep the extent",
                self.setup.operator.task()
            )));
        }
        let shape = Shape { c: 1, ..y };
        let (g, m) = (&mut self.graph, self.measurement.as_mut().expect("made above"));
        match *m.whitening.get_or_insert_with(|| (g.input("whitening", shape), deviation)) {
            (weights, same) if same == deviation => Ok(weights),
            _ => Err(Error::Invalid("a phase whitens its residuals by two standard deviations".into())),
        }
    }

    /// Reports a residual norm per item in the progress and in the trace of a run.
    pub fn report(&mut self, residual: TensorId) {
        self.reported = Some(residual);
    }

    /// Makes a tensor readable by [`Chain::read`](super::chain::Chain::read) under a name.
    pub fn output(&mut self, name: &'static str, value: TensorId) {
        self.outputs.push((name, value));
    }

    // Moves.

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

    /// The recorded phase.
    pub(super) fn finish(mut self, name: &'static str) -> Result<Phase> {
        if self.columns.len() > COLUMNS {
            let reason = format!("phase {name} has {} scalars, {COLUMNS} is the most", self.columns.len());
            return Err(Error::Invalid(reason));
        }
        let next = self.states.iter().filter_map(|s| s.next);
        let outputs = next.chain(self.reported).chain(self.outputs.iter().map(|o| o.1)).collect::<Vec<_>>();
        outputs.into_iter().for_each(|o| self.graph.output(o));
        Ok(Phase {
            name,
            graph: self.graph,
            t: self.t,
            labels: self.labels,
            coefficients: self.coefficients,
            columns: self.columns,
            keys: self.keys,
            states: self.states,
            measurement: self.measurement,
            reported: self.reported,
            outputs: self.outputs,
            items: self.setup.image.n,
            passes: self.evaluations + self.gradients,
        })
    }
}
