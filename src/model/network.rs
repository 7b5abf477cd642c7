//! What a sampler knows of a network.

use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::tensor::Shape;

/// What a sampler has to know about a prior.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// Channels of the image.
    pub channels: usize,
    /// The network also gives the interpolation of the log variance, as further channels.
    pub learn_sigma: bool,
    /// Number of classes of a class-conditional model.
    pub classes: Option<usize>,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// Name of the training schedule.
    pub noise_schedule: String,
    /// The network is told `t * 1000 / diffusion_steps`.
    pub rescale_timesteps: bool,
    /// Height and width of the image must be multiples of this.
    pub size_multiple: usize,
    /// What the network's output is.
    pub prediction: Prediction,
    /// x is the code of an image and not the image itself.
    pub latent: Option<Latent>,
}

/// What a network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Prediction {
    /// The noise: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.
    #[default]
    Epsilon,
    /// v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022).
    V,
}

impl std::fmt::Display for Prediction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Prediction::V { "v" } else { "epsilon" })
    }
}

/// How codes relate to images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Pixels of the image along one side of a code's pixel.
    pub factor: usize,
    /// Channels of the image.
    pub image_channels: usize,
    /// x is the encoder's code times this.
    pub scaling: f64,
}

impl Prior {
    /// Channels of the images that are restored.
    pub fn image_channels(&self) -> usize {
        self.latent.map_or(self.channels, |l| l.image_channels)
    }

    /// Extent of x for images of this extent: grown to what the model takes, and that of the code in a latent model.
    pub fn canvas(&self, image: Shape) -> Shape {
        let factor = self.latent.map_or(1, |l| l.factor);
        let grown = |size: usize| size.next_multiple_of(self.size_multiple) / factor;
        Shape { h: grown(image.h), w: grown(image.w), c: self.channels, ..image }
    }
}

/// A network that predicts eps or v.
pub trait Network: Send + Sync + std::fmt::Debug {
    /// What it is.
    fn prior(&self) -> Prior;

    /// Records the evaluation of x (n, h, w, channels) at timesteps t (n, 1, 1, 1), with labels (n, 1, 1, 1) for a
    /// class-conditional model. Gives eps (or v), then the variance's channels if learned.
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, labels: Option<TensorId>) -> Result<TensorId>;

    /// Extent of the embedded text that a model is conditioned on, for one item: (1, 1, tokens, channels).
    fn context_shape(&self) -> Option<Shape> {
        None
    }

    /// As [`Network::record`] with an embedded text (n or 1, 1, tokens, channels) in place of the model's own.
    fn record_with_text(&self, _: &mut Graph, _: TensorId, _: TensorId, _: TensorId) -> Result<TensorId> {
        Err(Error::Invalid("a pixel model is given no text".into()))
    }

    /// Mean and log variance of the code of an image, not scaled: what a latent model's encoder gives.
    fn encode(&self, _: &mut Graph, _: TensorId) -> Result<TensorId> {
        Err(Error::Invalid("a pixel model has no encoder".into()))
    }

    /// The image of a clean x: of a latent model the decoder's, else x itself.
    fn decode(&self, _: &mut Graph, x0: TensorId) -> Result<TensorId> {
        Ok(x0)
    }
}
