//! FreeDoM (Yu et al. 2023): DPS steps, and in the middle of the chain time travel: noise is added again and the step repeated.
//!
//! Between two of the K passes at a level x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n, of VP coordinates; the published
//! choice of levels is those with 40 to 70 % of the steps still to go.

use super::chain::{Chain, Sampler};
use super::dps;
use super::posterior::{Setup, column, write_keys};
use super::single::SingleStep;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;

/// x_t = TRAVEL_X x_{t-1} + TRAVEL_NOISE n
const TRAVEL_X: usize = column::OWN;
const TRAVEL_NOISE: usize = column::OWN + 1;

struct Freedom {
    step: SingleStep,
    travel: Executor,
    before: TensorId,
    coefficients: TensorId,
    keys: TensorId,
    after: TensorId,
    /// Coefficients of the way back to each level.
    levels: Vec<Vec<f32>>,
    passes: usize,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let mut g = Graph::new();
    let shape = s.canvas();
    let before = g.input("x", shape);
    let coefficients = g.input("coefficients", Shape::rows(shape.n, column::COUNT));
    let keys = g.input("keys", Shape::rows(shape.n, KEY_WORDS));
    let noise = g.one(NormalNoise { shape }, "noise", &[keys])?;
    let terms = [(TRAVEL_X, before), (TRAVEL_NOISE, noise)];
    let after = g.combine("travel", coefficients, &terms)?;
    g.output(after);
    let travel = |i: usize| [1.0 - s.schedule.beta[i], s.schedule.beta[i]].map(f64::sqrt);
    Ok(Box::new(Freedom {
        step: SingleStep::new(s, dps::step_graph(s)?, |i| (dps::length(s, i), vec![]))?,
        travel: s.executor(g)?,
        before,
        coefficients,
        keys,
        after,
        levels: (0..s.schedule.steps()).map(|i| s.coefficients(i, i, 0.0, &travel(i))).collect(),
        passes: s.settings.inner,
    }))
}

/// Passes at level i of `steps`.
pub(super) fn passes(i: usize, steps: usize, repeated: usize) -> usize {
    if 10 * i >= 4 * steps && 10 * i < 7 * steps { repeated } else { 1 }
}

impl Sampler for Freedom {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        self.step.begin(chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        for round in 0..passes(i, self.levels.len(), self.passes) as u32 {
            if round > 0 {
                self.step.copy_x(&mut self.travel, self.before)?;
                self.travel.write(self.coefficients, &self.levels[i])?;
                write_keys(&mut self.travel, self.keys, chain, i, Draw::Travel.round(round))?;
                self.travel.run()?;
                let (step, x) = self.step.x();
                self.travel.copy_to(self.after, step, x)?;
            }
            self.step.pass(i, round, chain)?;
        }
        Ok(())
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.step.read_x(x)
    }
    fn executors(&self) -> Vec<&Executor> {
        [self.step.executors(), vec![&self.travel]].concat()
    }
    fn set_poison(&mut self, on: bool) {
        self.step.set_poison(on);
        self.travel.set_poison(on);
    }
}
