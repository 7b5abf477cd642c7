//! A step of a sampler, recorded with the operations that papers use.
//!
//! [`Step`] holds the graph of one phase of a method. Its functions are the operations that papers
//! use: Tweedie's estimate of x_0, the residual norm, the posterior p(x_{t-1} | x_t), a gradient, a
//! step along it, noise, states. Numbers that change from level to level are [`Scalar`]s; tensors
//! that outlive a run are states. All phases of a method share a state by its name.

mod measurement;
mod model;
mod moves;
pub mod spectral;

use super::level::Moment;
use super::phase::{COLUMNS, Column, MeasurementInputs, Phase, StateUse};
use super::setup::Setup;
use super::trace::Traced;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::noise::Draw;
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
    condition: Option<TensorId>,
    coefficients: TensorId,
    columns: Vec<Column>,
    keys: Vec<(TensorId, Draw)>,
    states: Vec<StateUse>,
    measurement: Option<MeasurementInputs>,
    reported: Option<TensorId>,
    outputs: Vec<(&'static str, TensorId)>,
    traced: Traced,
    /// Outputs of the network, one per evaluation.
    evaluations: Vec<TensorId>,
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
            condition: None,
            graph,
            columns: Vec::new(),
            keys: Vec::new(),
            states: Vec::new(),
            measurement: None,
            reported: None,
            outputs: Vec::new(),
            traced: Traced::default(),
            evaluations: Vec::new(),
            gradients: 0,
        }
    }

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

    /// `frozen` for items that [`Chain::freeze`](crate::sampler::chain::Chain::freeze) has frozen,
    /// `moving` for the others.
    pub fn unless_frozen(&mut self, moving: f64, frozen: f64) -> Scalar {
        self.column(Column::Frozen(frozen, moving))
    }

    fn column(&mut self, column: Column) -> Scalar {
        self.columns.push(column);
        Scalar(self.columns.len() - 1)
    }

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

    /// The recorded phase.
    pub(super) fn finish(mut self, name: &'static str) -> Result<Phase> {
        if self.columns.len() > COLUMNS {
            let reason = format!("phase {name} has {} scalars, {COLUMNS} is the most", self.columns.len());
            return Err(Error::Invalid(reason));
        }
        let next = self.states.iter().filter_map(|s| s.next);
        let traced = self.traced.descents.iter().map(|d| d.0).chain(self.traced.estimate);
        let named = self.outputs.iter().map(|o| o.1);
        let outputs = next.chain(self.reported).chain(named).chain(traced).collect::<Vec<_>>();
        outputs.into_iter().for_each(|o| self.graph.output(o));
        Ok(Phase {
            name,
            graph: self.graph,
            t: self.t,
            labels: self.labels,
            condition: self.condition,
            coefficients: self.coefficients,
            columns: self.columns,
            keys: self.keys,
            states: self.states,
            measurement: self.measurement,
            reported: self.reported,
            outputs: self.outputs,
            traced: self.traced,
            items: self.setup.image.n,
            passes: self.evaluations.len() + self.gradients,
        })
    }
}
