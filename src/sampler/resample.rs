//! ReSample (Song et al. 2024): DPS steps, and at some levels of the last two thirds hard data consistency: the estimate's code is
//! optimised until its image has the measurement's residual, and x is drawn again around it. The levels are every tenth one, in a
//! chain of fewer than 100 steps every (steps / 10)-th.
//!
//! z0 = argmin over z from Tweedie's estimate of || A(D(z)) - y ||^2 / numel(y), by AdamW, until the residual is that of the noise or
//! K steps are done; then x' = (s2 sqrt(abar') z0 + (1 - abar') x') / (s2 + 1 - abar') + n / sqrt(1 / s2 + 1 / (1 - abar')), with
//! abar' of the level before and s2 = 40 (1 - abar') / (1 - abar) (1 - abar / abar'), in VP coordinates (eq. 12 there).

use super::chain::{Chain, Sampler};
use super::dps;
use super::posterior::{Inputs, MeasurementInputs, Setup, column, write_batch, write_keys, write_level};
use super::single::SingleStep;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId, backward};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::adamw::AdamW;
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;

/// Columns of the optimisation: 1 / numel of a measurement, rate, rate times decay, and the corrections of both moments.
const MEAN: usize = column::OWN;
const ADAMW: [usize; 4] = [column::OWN + 1, column::OWN + 2, column::OWN + 3, column::OWN + 4];
/// Columns of the redraw: x' = CODE z_0 + X x' + NOISE n.
const CODE: usize = column::OWN;
const X: usize = column::OWN + 1;
const NOISE: usize = column::OWN + 2;
/// Decay of the published optimiser, PyTorch's default.
const DECAY: f64 = 1e-2;

/// Levels between two optimisations of a long chain.
const EVERY: usize = 10;
/// Steps between two looks at the residual.
const LOOK: usize = 10;

/// Tweedie's estimate at x.
struct Estimate {
    executor: Executor,
    inputs: Inputs,
    x0: TensorId,
}

/// One step of the optimisation.
struct Optimiser {
    executor: Executor,
    inputs: Inputs,
    measurement: MeasurementInputs,
    /// z, m and v: inputs and outputs.
    state: [(TensorId, TensorId); 3],
    residual: TensorId,
}

/// x drawn again around the optimised code.
struct Redraw {
    executor: Executor,
    inputs: Inputs,
    code: TensorId,
    keys: TensorId,
    next: TensorId,
}

struct Resample {
    step: SingleStep,
    estimate: Estimate,
    optimiser: Optimiser,
    redraw: Redraw,
    /// (timesteps, coefficients) of each level, for the estimate and for the redraw.
    levels: Vec<(Vec<f32>, Vec<f32>)>,
    /// The same for each step of an optimisation; the level does not matter there.
    rows: Vec<(Vec<f32>, Vec<f32>)>,
    canvas: Shape,
}

fn estimate(s: &Setup<'_>) -> Result<Estimate> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let (x0, _) = s.estimate(&mut g, &inputs)?;
    g.output(x0);
    Ok(Estimate { executor: s.executor(g)?, inputs, x0 })
}

fn optimiser(s: &Setup<'_>) -> Result<Optimiser> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let measurement = s.measurement(&mut g);
    let (z, c) = (inputs.x, inputs.coefficients);
    let [m, v] = ["m", "v"].map(|name| g.input(name, s.canvas()));
    let residual = s.residual(&mut g, z, &measurement)?;
    let objective = s.mean_square(&mut g, &inputs, residual, MEAN)?;
    let one = s.ones(&mut g);
    let gradient = backward(&mut g, objective, one, z)?;
    let next = g.add(AdamW { columns: ADAMW }, "adamw", &[z, gradient, m, v, c])?;
    next.iter().chain([&residual]).for_each(|&o| g.output(o));
    let state = [(z, next[0]), (m, next[1]), (v, next[2])];
    Ok(Optimiser { executor: s.executor(g)?, inputs, measurement, state, residual })
}

fn redraw(s: &Setup<'_>) -> Result<Redraw> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let shape = s.canvas();
    let code = g.input("code", shape);
    let keys = g.input("keys", Shape::rows(shape.n, KEY_WORDS));
    let noise = g.one(NormalNoise { shape }, "noise", &[keys])?;
    let terms = [(CODE, code), (X, inputs.x), (NOISE, noise)];
    let next = g.combine("redraw", inputs.coefficients, &terms)?;
    g.output(next);
    Ok(Redraw { executor: s.executor(g)?, inputs, code, keys, next })
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let (steps, rate) = (s.schedule.steps(), s.settings.rate);
    let correction = |decay: f64, t: usize| 1.0 / (1.0 - decay.powi(t as i32));
    let row = |t: usize| [s.mean_factor(), rate, DECAY * rate, correction(0.9, t), correction(0.999, t)];
    Ok(Box::new(Resample {
        step: SingleStep::new(s, dps::step_graph(s)?, |i| (dps::length(s, i), vec![]))?,
        estimate: estimate(s)?,
        optimiser: optimiser(s)?,
        redraw: redraw(s)?,
        levels: (0..steps).map(|i| (s.timesteps(i), s.coefficients(i, i, 0.0, &s.schedule.redraw(i)))).collect(),
        rows: (1..=s.settings.inner).map(|t| (s.timesteps(0), s.coefficients(0, 0, 0.0, &row(t)))).collect(),
        canvas: s.canvas(),
    }))
}

/// True at the levels where the code is optimised.
pub(super) fn optimises(i: usize, steps: usize) -> bool {
    i > 0 && 3 * i <= 2 * steps && i % EVERY.min(steps.div_ceil(EVERY)) == 0
}

impl Resample {
    /// The code of least residual near the estimate at x of level i - 1, left in the optimiser.
    fn optimise(&mut self, i: usize, chain: &Chain) -> Result<()> {
        let (e, o) = (&mut self.estimate, &mut self.optimiser);
        self.step.copy_x(&mut e.executor, e.inputs.x)?;
        write_level(&mut e.executor, &e.inputs, &self.levels[i - 1], chain)?;
        e.executor.run()?;
        let [(z, next_z), (m, _), (v, _)] = o.state;
        e.executor.copy_to(e.x0, &mut o.executor, z)?;
        let zeros = vec![0.0; self.canvas.numel()];
        o.executor.write(m, &zeros)?;
        o.executor.write(v, &zeros)?;
        let mut residual = vec![0.0; chain.residual.len()];
        for (k, row) in self.rows.iter().enumerate() {
            write_level(&mut o.executor, &o.inputs, row, chain)?;
            o.executor.run()?;
            for (input, output) in o.state {
                o.executor.carry(output, input)?;
            }
            if (k + 1) % LOOK == 0 {
                o.executor.read_into(o.residual, &mut residual)?;
                if residual.iter().zip(&chain.noise_norm).all(|(r, n)| r <= n) {
                    break;
                }
            }
        }
        o.executor.copy_to(next_z, &mut self.redraw.executor, self.redraw.code)
    }
}

impl Sampler for Resample {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        self.step.begin(chain)?;
        let o = &mut self.optimiser;
        write_batch(&mut o.executor, &o.inputs, Some(&o.measurement), chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        self.step.pass(i, 0, chain)?;
        if !optimises(i, self.levels.len()) {
            return Ok(());
        }
        self.optimise(i, chain)?;
        let r = &mut self.redraw;
        self.step.copy_x(&mut r.executor, r.inputs.x)?;
        write_level(&mut r.executor, &r.inputs, &self.levels[i], chain)?;
        write_keys(&mut r.executor, r.keys, chain, i, Draw::Travel)?;
        r.executor.run()?;
        let (step, x) = self.step.x();
        r.executor.copy_to(r.next, step, x)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.step.read_x(x)
    }
    fn executors(&self) -> Vec<&Executor> {
        let others = [&self.estimate.executor, &self.optimiser.executor, &self.redraw.executor];
        [self.step.executors(), others.to_vec()].concat()
    }
    fn set_poison(&mut self, on: bool) {
        self.step.set_poison(on);
        for e in [&mut self.estimate.executor, &mut self.optimiser.executor, &mut self.redraw.executor] {
            e.set_poison(on);
        }
    }
}
