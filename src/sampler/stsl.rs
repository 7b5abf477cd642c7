//! Second-order Tweedie sampling (Rout et al. 2024): before every ancestral step K descents at its own level, of the residual and of an
//! estimate of the trace of the score's Jacobian.
//!
//! With the score s(x) = (sqrt(abar) x0(x) - x) / (1 - abar) and n ~ N(0, I): T = mean(n (s(x + n) - s(x))), which is
//! sqrt(abar) / (1 - abar) mean(n (x0(x + n) - x0(x))) and a constant. x <- x - zeta d(|| A(x0) - y || + weight T) / dx.
//! In sigma space, where absolute step sizes belong, dL/dz = sqrt(abar) dL/dx: the step in x is zeta abar dL/dx.

use super::chain::{Chain, Sampler};
use super::posterior::{Setup, column};
use super::settings::Zeta;
use super::single::{SingleStep, StepGraph};
use super::unconditional;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, TensorId};
use crate::noise::{Draw, KEY_WORDS};
use crate::ops::add::Add;
use crate::ops::norm::SquaredNorm;
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;

/// A quarter of the trace's factor, and minus that.
const TRACE: usize = column::OWN;
const MINUS_TRACE: usize = column::OWN + 1;

/// One descent at the level of x.
pub fn inner_graph(s: &Setup<'_>) -> Result<StepGraph> {
    let mut g = Graph::new();
    let inputs = s.inputs(&mut g);
    let c = inputs.coefficients;
    let measurement = s.measurement(&mut g);
    let keys = g.input("probe.keys", Shape::rows(s.image.n, KEY_WORDS));
    let probe = g.one(NormalNoise { shape: s.canvas() }, "probe", &[keys])?;
    let (x0, _) = s.estimate(&mut g, &inputs)?;
    let residual = s.residual(&mut g, x0, &measurement)?;
    let moved = g.one(Add { scale: 1.0 }, "x.moved", &[inputs.x, probe])?;
    let (x0_moved, _) = s.estimate(&mut g, &inputs.at(moved))?;
    let change = g.one(Add { scale: -1.0 }, "change", &[x0_moved, x0])?;
    let (plus, minus) = products(&mut g, probe, change)?;
    let terms = [(column::ONE, residual), (TRACE, plus), (MINUS_TRACE, minus)];
    let objective = g.combine("objective", c, &terms)?;
    let gradient = s.gradient(&mut g, objective, &inputs)?;
    let next = s.descend(&mut g, &inputs, inputs.x, gradient, residual)?;
    let noises = vec![(keys, Draw::Travel)];
    Ok(StepGraph { graph: g, inputs, measurement: Some(measurement), noises, next, residual: Some(residual) })
}

/// Squared norms of a + b and a - b per item, whose difference is four times the inner product.
fn products(g: &mut Graph, a: TensorId, b: TensorId) -> Result<(TensorId, TensorId)> {
    let sum = g.one(Add { scale: 1.0 }, "trace.sum", &[a, b])?;
    let difference = g.one(Add { scale: -1.0 }, "trace.difference", &[a, b])?;
    Ok((g.one(SquaredNorm, "trace.plus", &[sum])?, g.one(SquaredNorm, "trace.minus", &[difference])?))
}

struct Stsl {
    inner: SingleStep,
    outer: SingleStep,
    descents: usize,
}

pub(super) fn build(s: &Setup<'_>) -> Result<Box<dyn Sampler>> {
    let length = |i: usize| match s.settings.zeta {
        Zeta::Relative(zeta) => zeta * s.radius(i),
        Zeta::Absolute(zeta) => zeta * s.schedule.alpha_bar[i],
    };
    let trace = |i: usize| {
        let bar = s.schedule.alpha_bar[i];
        s.settings.consistency * bar.sqrt() / (1.0 - bar) / s.canvas().item() as f64 / 4.0
    };
    Ok(Box::new(Stsl {
        inner: SingleStep::new(s, inner_graph(s)?, |i| (length(i), vec![trace(i), -trace(i)]))?,
        outer: SingleStep::new(s, unconditional::step_graph(s)?, |_| (0.0, vec![]))?,
        descents: s.settings.inner,
    }))
}

impl Sampler for Stsl {
    fn begin(&mut self, chain: &Chain) -> Result<()> {
        self.inner.begin(chain)?;
        self.outer.begin(chain)
    }
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()> {
        for round in 0..self.descents as u32 {
            self.inner.pass(i, round, chain)?;
        }
        self.inner.hand_over(&mut self.outer)?;
        self.outer.pass(i, 0, chain)?;
        self.outer.hand_over(&mut self.inner)
    }
    fn read_x(&self, x: &mut [f32]) -> Result<()> {
        self.outer.read_x(x)
    }
    fn executors(&self) -> Vec<&Executor> {
        [self.inner.executors(), self.outer.executors()].concat()
    }
    fn set_poison(&mut self, on: bool) {
        self.inner.set_poison(on);
        self.outer.set_poison(on);
    }
}
