//! The pieces of a step graph: model, Tweedie's formula, operator, residual norm, and their reverse.

use super::chain::Chain;
use super::schedule::{Schedule, Variance};
use super::settings::{Settings, Zeta};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, TensorId, backward};
use crate::model::{Network, Prior};
use crate::noise::{Draw, KEY_WORDS, NoiseKey};
use crate::operator::Operator;
use crate::ops::clamp::Clamp;
use crate::ops::concat::ChannelSlice;
use crate::ops::crop::Crop;
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::norm::{ResidualNorm, SquaredNorm};
use crate::ops::normal_noise::NormalNoise;
use crate::ops::sphere_projection::GuidedStep;
use crate::tensor::Shape;
use crate::weights::Weights;

/// Everything that the graphs of a sampler depend on.
pub struct Setup<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// What the network is.
    pub prior: &'a Prior,
    /// Its weights.
    pub weights: &'a Weights,
    /// The measurement.
    pub operator: &'a dyn Operator,
    /// Extent of the images that the user sees.
    pub image: Shape,
    /// The method and its settings.
    pub settings: &'a Settings,
    /// The respaced schedule.
    pub schedule: &'a Schedule,
    /// Storage type and memory budget.
    pub plan: PlanOptions,
    /// Where it runs.
    pub device: &'a Device,
}

/// Columns of the coefficient tensor.
pub mod column {
    /// x0 = TWEEDIE_X x + TWEEDIE_EPS eps, or v in place of eps
    pub const TWEEDIE_X: usize = 0;
    /// See [`TWEEDIE_X`].
    pub const TWEEDIE_EPS: usize = 1;
    /// mean = MEAN_X0 x0 + MEAN_X x
    pub const MEAN_X0: usize = 2;
    /// See [`MEAN_X0`].
    pub const MEAN_X: usize = 3;
    /// Factor of the noise.
    pub const DEVIATION: usize = 4;
    /// Length of the step down the gradient, or minus zeta.
    pub const STEP: usize = 5;
    /// sqrt(numel) times the deviation.
    pub const RADIUS: usize = 6;
    /// log beta
    pub const LOG_BETA: usize = 7;
    /// log beta~
    pub const LOG_BETA_TILDE: usize = 8;
    /// 1 where noise is added, 0 at the last step.
    pub const NOISE_ON: usize = 9;
    /// 1
    pub const ONE: usize = 10;
    /// Norm of the measurement's noise, below which the residual is not to be brought.
    pub const NOISE_NORM: usize = 11;
    /// First of the columns that a method names and fills itself.
    pub const OWN: usize = 12;
    /// Number of columns.
    pub const COUNT: usize = OWN + 5;
}

/// Inputs that every step graph has.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// x_t, (n, h, w, c) on the canvas.
    pub x: TensorId,
    t: TensorId,
    labels: Option<TensorId>,
    /// An embedded text per item, in place of the model's own.
    pub context: Option<TensorId>,
    /// One row of [`column::COUNT`] values per item.
    pub coefficients: TensorId,
}

impl Inputs {
    /// The same level at another x.
    pub fn at(&self, x: TensorId) -> Inputs {
        Inputs { x, ..*self }
    }
}

/// Inputs of the measurement.
#[derive(Clone, Copy)]
pub struct MeasurementInputs {
    /// The measurement.
    pub y: TensorId,
    state: Option<TensorId>,
    /// Weights of the frequencies of a whitened residual.
    whitening: Option<TensorId>,
}

impl Setup<'_> {
    /// Extent of x: the image's, grown to what the model takes, or that of its code.
    pub fn canvas(&self) -> Shape {
        self.prior.canvas(self.image)
    }

    /// Records the inputs of a step.
    pub fn inputs(&self, g: &mut Graph) -> Inputs {
        let x = self.canvas();
        Inputs {
            x: g.input("x", x),
            t: g.input("t", Shape::rows(x.n, 1)),
            labels: self.prior.classes.map(|_| g.input("labels", Shape::rows(x.n, 1))),
            context: None,
            coefficients: g.input("coefficients", Shape::rows(x.n, column::COUNT)),
        }
    }

    /// Records the measurement as inputs.
    pub fn measurement(&self, g: &mut Graph) -> MeasurementInputs {
        MeasurementInputs {
            y: g.input("y", self.operator.measurement_shape(self.image)),
            state: self.operator.state_shape(self.image).map(|s| g.input("state", s)),
            whitening: self.whitening_shape().map(|s| g.input("whitening", s)),
        }
    }

    /// x0 = E[x_0 | x_t] by Tweedie's formula, an image limited to [-1, 1] if so set; and the variance channels if learned.
    pub fn estimate(&self, g: &mut Graph, i: &Inputs) -> Result<(TensorId, Option<TensorId>)> {
        let c = self.prior.channels;
        let out = match i.context {
            Some(context) => self.network.record_with_text(g, i.x, i.t, context)?,
            None => self.network.record(g, i.x, i.t, i.labels)?,
        };
        let (eps, v) = if self.prior.learn_sigma {
            let eps = g.one(ChannelSlice { start: 0, len: c }, "eps", &[out])?;
            (eps, Some(g.one(ChannelSlice { start: c, len: c }, "v", &[out])?))
        } else {
            (out, None)
        };
        let terms = [(column::TWEEDIE_X, i.x), (column::TWEEDIE_EPS, eps)];
        let mut x0 = g.combine("x0", i.coefficients, &terms)?;
        // A code has no range of its own.
        if self.settings.clip && self.prior.latent.is_none() {
            x0 = g.one(Clamp { low: -1.0, high: 1.0 }, "x0.clip", &[x0])?;
        }
        Ok((x0, v))
    }

    /// || A(D(x0)) - y || per item, with the decoder D of a latent model; of a blur whitened (see [`super::whitening`]).
    pub fn residual(&self, g: &mut Graph, x0: TensorId, m: &MeasurementInputs) -> Result<TensorId> {
        let whole = self.network.decode(g, x0)?;
        let a = self.measured(g, whole, m)?;
        match m.whitening {
            Some(weights) => self.whitened(g, a, m, weights),
            None => g.one(ResidualNorm, "residual", &[a, m.y]),
        }
    }

    /// A(x) of the part of a canvas that is the image.
    pub fn measured(&self, g: &mut Graph, whole: TensorId, m: &MeasurementInputs) -> Result<TensorId> {
        let shape = self.image;
        let seen =
            if g.shape(whole) == shape { whole } else { g.one(Crop { h: shape.h, w: shape.w }, "crop", &[whole])? };
        self.operator.build(g, seen, m.state)
    }

    /// The mean squared residual per item, by its norm; `mean` is the column of [`Setup::mean_factor`].
    pub fn mean_square(&self, g: &mut Graph, i: &Inputs, residual: TensorId, mean: usize) -> Result<TensorId> {
        let square = g.one(SquaredNorm, "residual.square", &[residual])?;
        g.combine("residual.mean", i.coefficients, &[(mean, square)])
    }

    /// 1 over the values of a measurement.
    pub fn mean_factor(&self) -> f64 {
        1.0 / self.operator.measurement_shape(self.image).item() as f64
    }

    /// The cotangent of a scalar per item.
    pub fn ones(&self, g: &mut Graph) -> TensorId {
        let n = self.image.n;
        g.constant("one", Shape::rows(n, 1), vec![1.0; n])
    }

    /// An input for an embedded text per item.
    pub fn context(&self, g: &mut Graph) -> Result<TensorId> {
        let shape = self.network.context_shape();
        let shape = shape.ok_or_else(|| Error::Invalid("a pixel model is given no text".into()))?;
        Ok(g.input("context", Shape { n: self.image.n, ..shape }))
    }

    /// d residual / dx, every item's by itself.
    pub fn gradient(&self, g: &mut Graph, residual: TensorId, i: &Inputs) -> Result<TensorId> {
        let one = self.ones(g);
        backward(g, residual, one, i.x)
    }

    /// A sample of p(x_{t-1} | x_t) and its mean: (sample, mean, keys of the noise).
    pub fn ancestral(
        &self,
        g: &mut Graph,
        i: &Inputs,
        x0: TensorId,
        v: Option<TensorId>,
    ) -> Result<(TensorId, TensorId, TensorId)> {
        let shape = g.shape(i.x);
        let keys = g.input("keys", Shape::rows(shape.n, KEY_WORDS));
        let noise = g.one(NormalNoise { shape }, "noise", &[keys])?;
        let mean = g.combine("mean", i.coefficients, &[(column::MEAN_X0, x0), (column::MEAN_X, i.x)])?;
        let sample = match v.filter(|_| self.settings.variance == Variance::LearnedRange) {
            Some(v) => {
                let columns = [column::LOG_BETA, column::LOG_BETA_TILDE, column::NOISE_ON];
                g.one(LearnedNoise { columns }, "sample", &[mean, v, noise, i.coefficients])?
            }
            None => g.combine("sample", i.coefficients, &[(column::ONE, mean), (column::DEVIATION, noise)])?,
        };
        Ok((sample, mean, keys))
    }

    /// z moved down the gradient of the residual norm: towards the noise's norm within a length (relative zeta), or by a
    /// multiple of the gradient (absolute zeta).
    pub fn descend(
        &self,
        g: &mut Graph,
        i: &Inputs,
        z: TensorId,
        gradient: TensorId,
        residual: TensorId,
    ) -> Result<TensorId> {
        let normalised = matches!(self.settings.zeta, Zeta::Relative(_));
        let op = GuidedStep { step: column::STEP, floor: column::NOISE_NORM, normalised };
        g.one(op, "step", &[z, gradient, residual, i.coefficients])
    }

    /// Plans and allocates.
    pub fn executor(&self, g: Graph) -> Result<Executor> {
        Executor::new(g, &self.plan, self.weights, self.device)
    }

    /// One row of coefficients for a network evaluation at level `at` within the step from level `i`.
    /// `step` is the value of [`column::STEP`], `own` those from [`column::OWN`] on.
    pub fn coefficients(&self, at: usize, i: usize, step: f64, own: &[f64]) -> Vec<f32> {
        let s = self.schedule;
        let mut row = [0.0; column::COUNT];
        (row[column::TWEEDIE_X], row[column::TWEEDIE_EPS]) = s.clean(at, self.prior.prediction);
        (row[column::MEAN_X0], row[column::MEAN_X]) = s.posterior_mean(i);
        row[column::DEVIATION] = s.deviation(i, self.settings.variance);
        row[column::STEP] = step;
        row[column::RADIUS] = self.radius(i);
        row[column::LOG_BETA] = s.beta[i].ln();
        row[column::LOG_BETA_TILDE] = s.posterior_log_variance_clipped(i);
        row[column::NOISE_ON] = if i == 0 { 0.0 } else { 1.0 };
        row[column::ONE] = 1.0;
        row[column::OWN..][..own.len()].copy_from_slice(own);
        let row = row.map(|v| v as f32);
        row.iter().copied().cycle().take(column::COUNT * self.image.n).collect()
    }

    /// Radius of the sphere that p(x_{i-1} | x_i) lives on: sqrt(numel) times its deviation.
    pub fn radius(&self, i: usize) -> f64 {
        (self.canvas().item() as f64).sqrt() * self.schedule.deviation(i, self.settings.variance)
    }

    /// The timestep that the network is told at level `at`, once per item.
    pub fn timesteps(&self, at: usize) -> Vec<f32> {
        let scale = if self.prior.rescale_timesteps { 1000.0 / self.prior.diffusion_steps as f64 } else { 1.0 };
        vec![(self.schedule.timesteps[at] * scale) as f32; self.image.n]
    }
}

/// Writes what changes from level to level.
pub fn write_level(
    e: &mut Executor,
    i: &Inputs,
    (t, coefficients): &(Vec<f32>, Vec<f32>),
    chain: &Chain,
) -> Result<()> {
    e.write(i.t, t)?;
    let mut coefficients = coefficients.clone();
    for (row, &noise) in coefficients.chunks_mut(column::COUNT).zip(&chain.noise_norm) {
        row[column::NOISE_NORM] = noise;
    }
    e.write(i.coefficients, &coefficients)
}

/// Writes what stays the same for a whole run: x_T, labels, and the measurement where the graph reads one.
pub fn write_batch(e: &mut Executor, i: &Inputs, m: Option<&MeasurementInputs>, chain: &Chain) -> Result<()> {
    e.write(i.x, &chain.x)?;
    if let Some(id) = i.labels {
        e.write(id, &chain.labels)?;
    }
    if let Some(m) = m {
        e.write(m.y, &chain.y)?;
        if let Some(state) = m.state {
            e.write(state, &chain.state)?;
        }
        if let Some(weights) = m.whitening {
            e.write(weights, &chain.whitening)?;
        }
    }
    Ok(())
}

/// Writes the keys of the noise that step `i` draws for a purpose.
pub fn write_keys(e: &mut Executor, keys: TensorId, chain: &Chain, i: usize, draw: Draw) -> Result<()> {
    let words = chain
        .seeds
        .iter()
        .flat_map(|&(seed, image)| NoiseKey { seed, image, step: i as u32, draw }.to_words().map(f32::from_bits));
    e.write(keys, &words.collect::<Vec<_>>())
}
