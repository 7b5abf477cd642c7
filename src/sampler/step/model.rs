//! The network in a step: estimates of the clean image and the posterior of the next level.

use super::{Estimate, Posterior, Step};
use crate::error::Result;
use crate::graph::TensorId;
use crate::model::Conditioning;
use crate::noise::Draw;
use crate::ops::concat::ChannelSlice;
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::pointwise::Clamp;
use crate::sampler::schedule::Variance;
use crate::tensor::Shape;

impl Step<'_> {
    /// x0 = E[x_0 | x_t] at `x` by Tweedie's formula. For pixel models it is clamped to [-1, 1] if
    /// the settings say so. With a conditional score estimator it is E[x_0 | x_t, y].
    pub fn estimate(&mut self, x: TensorId) -> Result<Estimate> {
        let condition = self.condition();
        let output = self.evaluated(x, Conditioning::default().condition(condition))?;
        self.estimate_of(x, output)
    }

    /// The same of the prior alone: without the conditional score estimator, if there is one.
    pub fn estimate_of_prior(&mut self, x: TensorId) -> Result<Estimate> {
        let output = self.evaluated(x, Conditioning::default())?;
        self.estimate_of(x, output)
    }

    /// The same with a text embedding per item, (n, 1, tokens, channels), in place of the model's
    /// own.
    pub fn estimate_with_text(&mut self, x: TensorId, text: TensorId) -> Result<Estimate> {
        let output = self.evaluated(x, Conditioning::default().text(text))?;
        self.estimate_of(x, output)
    }

    fn evaluated(&mut self, x: TensorId, given: Conditioning) -> Result<TensorId> {
        let given = given.labels(self.labels);
        self.setup.network.record(&mut self.graph, x, self.t, &given)
    }

    fn estimate_of(&mut self, x: TensorId, output: TensorId) -> Result<Estimate> {
        self.evaluations.push(output);
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
        if self.setup.traced {
            self.traced.estimate.get_or_insert(x0);
        }
        Ok(Estimate { x, output, x0, variance })
    }

    /// The condition image of the conditional score estimator, if there is one.
    fn condition(&mut self) -> Option<TensorId> {
        let channels = self.setup.network.condition()?.channels;
        let shape = Shape { c: channels, ..self.setup.prior.picture_canvas(self.setup.image) };
        let graph = &mut self.graph;
        Some(*self.condition.get_or_insert_with(|| graph.input("condition", shape)))
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
                let (one, sigma) = (self.constant(1.0), self.scalar(|m| m.level.posterior_sigma));
                self.combine("sample", &[(one, mean), (sigma, noise)])?
            }
        };
        Ok(Posterior { mean, sample })
    }
}
