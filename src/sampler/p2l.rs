//! Prompt tuning of latent samplers (P2L, Chung et al. 2024): in the first fifth of the chain the embedded text is moved to lower the
//! residual, then a DPS step follows.
//!
//! K times: c <- c - rate d/dc mean((A(D(z0(z, c))) - y)^2), every item with a text of its own, carried from level to level.

use super::chain::{Chain, Sampler};
use super::dps;
use super::posterior::{Inputs, MeasurementInputs, Setup, column, write_batch, write_level};
use super::single::{SingleStep, StepGraph};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, TensorId, backward};
use crate::model::stable_diffusion::CONTEXT;

/// 1 / numel of a measurement, and minus the rate.
const MEAN: usize = column::OWN;
const MINUS_RATE: usize = column::OWN + 1;

/// One step down the mean squared residual by the text; `next` is the text.
pub fn text_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let mut inputs = s.inputs(&mut g);
    let context = s.context(&mut g)?;
    inputs.context = Some(context);
    let c = inputs.coefficients;
    let measurement = s.measurement(&mut g);
    let (x0, _) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let objective = s.mean_square(&mut g, &inputs, residual, MEAN)?;
    let one = s.ones(&mut g);
    let gradient = backward(&mut g, objective, one, context)?;
    let next = g.combine("text", c, &[(column::ONE, context), (MINUS_RATE, gradient)])?;
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises: Vec::new(), next, residual: None })
}

/// The text graph: it is given x and moves the text.
struct Text {
    executor: Executor,
    inputs: Inputs,
    measurement: MeasurementInputs,
    context: TensorId,
    next: TensorId,
}

struct P2l {
    text: Text,
    step: SingleStep,
    step_context: TensorId,
    /// (timesteps, coefficients) of each level.
    levels: Vec<(Vec<f32>, Vec<f32>)>,
    /// The text at the start, once per item.
    start: Vec<f32>,
    updates: usize,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let StepGraph { graph, inputs, measurement, next, .. } = text_graph(s)?.marked();
    let (Some(context), Some(measurement)) = (inputs.context, measurement) else { unreachable!("recorded above") };
    let own = s.weights.given(CONTEXT);
    let own = own.ok_or_else(|| Error::Invalid("p2l needs a model with an embedded text".into()))?;
    let recorded = dps::step_graph_with_text(s)?;
    let Some(step_context) = recorded.inputs.context else { unreachable!("recorded with a text") };
    Ok(Box::new(P2l {
        text: Text { executor: s.executor(graph)?, inputs, measurement, context, next },
        step: SingleStep::new(s, recorded, |i| (dps::length(s, i), vec![]))?,
        step_context,
        levels: (0..s.schedule.steps())
            .map(|i| (s.timesteps(i), s.coefficients(i, i, 0.0, &[s.mean_factor(), -s.settings.rate])))
            .collect(),
        start: own.iter().copied().cycle().take(own.len() * s.image.n).collect(),
        updates: s.settings.inner,
    }))
}

/// True at the levels where the text is moved.
pub(super) fn moves_text(i: usize, steps: usize) -> bool {
    5 * (steps - 1 - i) < steps
}

impl Sampler for P2l {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        let text = &mut self.text;
        write_batch(&mut text.executor, &text.inputs, Some(&text.measurement), chain)?;
        text.executor.write(text.context, &self.start)?;
        self.step.begin(chain)?;
        self.step.x().0.write(self.step_context, &self.start)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        let steps = self.levels.len();
        if moves_text(i, steps) {
            let text = &mut self.text;
            if i + 1 < steps {
                self.step.copy_x(&mut text.executor, text.inputs.x)?;
            }
            write_level(&mut text.executor, &text.inputs, &self.levels[i], chain)?;
            for _ in 0..self.updates {
                text.executor.run()?;
                text.executor.carry(text.next, text.context)?;
            }
            text.executor.copy_to(text.context, self.step.x().0, self.step_context)?;
        }
        self.step.pass(i, 0, chain)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.step.read_x(x)
    }
    fn executors(&self) -> Vec<&Executor> {
        [vec![&self.text.executor], self.step.executors()].concat()
    }
    fn set_poison(&mut self, on: bool) {
        self.text.executor.set_poison(on);
        self.step.set_poison(on);
    }
}
