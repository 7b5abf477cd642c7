//! What a sampler knows of a network.

use super::training_schedule::NoiseSchedule;
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::tensor::Shape;

/// What a sampler has to know about a prior.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prior {
    /// Channels of the image.
    pub channels: usize,
    /// The network also gives the interpolation of the log variance, as further channels.
    pub learn_sigma: bool,
    /// Number of classes of a class-conditional model.
    pub classes: Option<usize>,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// The training schedule.
    pub noise_schedule: NoiseSchedule,
    /// The network is told `t * 1000 / diffusion_steps`.
    pub rescale_timesteps: bool,
    /// Height and width of the image must be multiples of this.
    pub size_multiple: usize,
    /// What the network's output is.
    pub prediction: Prediction,
    /// x is the latent of an image and not the image itself.
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

/// How latents relate to images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Pixels of the image along one side of a latent's pixel.
    pub factor: usize,
    /// Channels of the image.
    pub image_channels: usize,
    /// x is the encoder's latent times this.
    pub scaling: f64,
}

impl Prior {
    /// An unconditional pixel model of three channels that takes any size and predicts the noise of 1000 linear steps. Its fields
    /// can be set.
    pub fn of_pixels() -> Prior {
        Prior {
            channels: 3,
            learn_sigma: false,
            classes: None,
            diffusion_steps: 1000,
            noise_schedule: NoiseSchedule::Linear,
            rescale_timesteps: false,
            size_multiple: 1,
            prediction: Prediction::Epsilon,
            latent: None,
        }
    }

    /// Channels of the images that are restored.
    pub fn image_channels(&self) -> usize {
        self.latent.map_or(self.channels, |l| l.image_channels)
    }

    /// Extent of x for images of this extent: grown to what the model takes, and that of the latent in a latent model.
    pub fn canvas(&self, image: Shape) -> Shape {
        let factor = self.latent.map_or(1, |l| l.factor);
        let grown = |size: usize| size.next_multiple_of(self.size_multiple) / factor;
        Shape { h: grown(image.h), w: grown(image.w), c: self.channels, ..image }
    }
}

/// What an evaluation is conditioned on, beside x and its timestep.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Conditioning {
    /// Labels (n, 1, 1, 1) of a class-conditional model.
    pub labels: Option<TensorId>,
    /// A text embedding (n or 1, 1, tokens, channels) in place of the model's own.
    pub text: Option<TensorId>,
}

impl Conditioning {
    /// The same with labels.
    pub fn labels(self, labels: impl Into<Option<TensorId>>) -> Conditioning {
        Conditioning { labels: labels.into(), ..self }
    }

    /// The same with a text embedding.
    pub fn text(self, text: impl Into<Option<TensorId>>) -> Conditioning {
        Conditioning { text: text.into(), ..self }
    }
}

/// A network that predicts eps or v.
pub trait Network: Send + Sync + std::fmt::Debug {
    /// What it is.
    fn prior(&self) -> Prior;

    /// Records the evaluation of x (n, h, w, channels) at timesteps t (n, 1, 1, 1). Gives eps (or v), then the variance's channels
    /// if learned. Fails on a conditioning that the network does not take, and on labels that are missing.
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, given: &Conditioning) -> Result<TensorId>;

    /// Extent of the text embedding that a model is conditioned on, for one item: (1, 1, tokens, channels).
    fn text_shape(&self) -> Option<Shape> {
        None
    }

    /// The autoencoder of a latent model; none for a pixel model.
    fn codec(&self) -> Option<&dyn Codec> {
        None
    }
}

/// The autoencoder between images and the latents of a latent model.
pub trait Codec {
    /// How its latents relate to images; the [`Prior`] says the same.
    fn latent(&self) -> Latent;

    /// Records the encoder of an image (n, h, w, image channels): mean and log variance of its latent, not scaled, as twice the
    /// channels.
    fn encode(&self, g: &mut Graph, image: TensorId) -> Result<TensorId>;

    /// Records the decoder of a clean x, a scaled latent: its image.
    fn decode(&self, g: &mut Graph, x0: TensorId) -> Result<TensorId>;
}
