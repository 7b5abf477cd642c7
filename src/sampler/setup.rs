//! Everything that the graphs of a sampler depend on.

use super::level::Level;
use super::schedule::{Schedule, Variance};
use crate::backend::Device;
use crate::error::Result;
use crate::graph::{Graph, Plan, PlanOptions, TensorId};
use crate::model::{Network, Prior};
use crate::operator::Operator;
use crate::tensor::Shape;
use crate::weights::Weights;

/// Everything that the graphs of a sampler depend on, except the method.
pub struct Setup<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// The description of the network.
    pub prior: Prior,
    /// Its weights.
    pub weights: &'a Weights,
    /// The measurement operator.
    pub operator: &'a dyn Operator,
    /// Shape of a batch of images as the user sees them, (n, h, w, c).
    pub image: Shape,
    /// The respaced schedule.
    pub schedule: Schedule,
    /// Variance of the ancestral step.
    pub variance: Variance,
    /// If true, the estimate of x_0 of a pixel model is clamped to [-1, 1].
    pub clip: bool,
    /// If true, graphs keep what a report shows of a step.
    pub traced: bool,
    /// Storage type and memory budget.
    pub plan: PlanOptions,
    /// The device to run on.
    pub device: &'a Device,
}

impl Setup<'_> {
    /// Shape of x, (n, h, w, c): for a pixel model the image's, padded to the size multiple of the
    /// network; for a latent model the shape of the latent.
    pub fn canvas(&self) -> Shape {
        self.prior.canvas(self.image)
    }

    /// Shape of a batch of measurements.
    pub fn measurement_shape(&self) -> Shape {
        self.operator.measurement_shape(self.image)
    }

    /// The numbers of step `index` (0 is the last step).
    pub fn level(&self, index: usize) -> Level {
        self.level_of(&self.schedule, index)
    }

    fn level_of(&self, s: &Schedule, index: usize) -> Level {
        let scale = if self.prior.rescale_timesteps { 1000.0 / self.prior.diffusion_steps as f64 } else { 1.0 };
        let (clean_x, clean_output) = s.clean(index, self.prior.prediction);
        let (mean_x0, mean_x) = s.posterior_mean(index);
        let posterior_sigma = s.posterior_sigma(index, self.variance);
        Level {
            index,
            count: s.steps(),
            timestep: s.timesteps[index] * scale,
            alpha_bar: s.alpha_bar[index],
            alpha_bar_before: s.alpha_bar_before(index),
            beta: s.beta[index],
            clean_x,
            clean_output,
            mean_x0,
            mean_x,
            posterior_sigma,
            radius: (self.canvas().item() as f64).sqrt() * posterior_sigma,
            log_beta: s.beta[index].ln(),
            log_beta_tilde: s.posterior_log_variance_clipped(index),
        }
    }

    /// The numbers of all steps, the last step first.
    pub fn levels(&self) -> Vec<Level> {
        (0..self.schedule.steps()).map(|i| self.level(i)).collect()
    }

    /// For every step, its inner levels, least noise first. `sigmas` gives those of a step with
    /// this sigma. Fails if they do not rise.
    pub fn inner_levels(&self, sigmas: impl Fn(f64) -> Vec<f64>) -> Result<Vec<Vec<Level>>> {
        let of_level = |i: usize| {
            let sigmas = sigmas(self.schedule.sigma(i));
            if sigmas.is_empty() {
                return Ok(Vec::new());
            }
            let inner = Schedule::of_sigmas(self.prior.noise_schedule, self.prior.diffusion_steps, &sigmas)?;
            Ok((0..inner.steps()).map(|j| self.level_of(&inner, j)).collect())
        };
        (0..self.schedule.steps()).map(of_level).collect()
    }

    /// The graph that decodes one latent to an image: (graph, latent, image). None for pixel
    /// models.
    pub fn decoder(&self) -> Result<Option<(Graph, TensorId, TensorId)>> {
        let Some(codec) = self.network.codec() else { return Ok(None) };
        let mut g = Graph::new();
        let z = g.input("x", Shape { n: 1, ..self.canvas() });
        let image = codec.decode(&mut g, z)?;
        g.output(image);
        Ok(Some((g, z, image)))
    }

    /// Options for planning the graph `own` if its memory budget is shared with the inputs and
    /// outputs of all `graphs`. `graphs` contains `own`.
    pub fn plan_of<'g>(&self, own: &'g Graph, graphs: impl IntoIterator<Item = &'g Graph>) -> PlanOptions {
        let bytes = |g: &Graph| Plan::io_bytes_of(g, self.plan.storage);
        let all: u64 = graphs.into_iter().map(bytes).sum();
        PlanOptions { other_io_bytes: all - bytes(own), ..self.plan }
    }
}
