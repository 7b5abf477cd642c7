//! The interface between samplers and networks.

use super::control::{ControlConfig, Encoded};
use super::latent_config::UnetConfig;
use super::training_schedule::NoiseSchedule;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::tensor::Shape;

/// The properties of a network that a sampler needs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prior {
    /// Channels of the image.
    pub channels: usize,
    /// The network also predicts the interpolation of the log variance, as further channels.
    pub learn_sigma: bool,
    /// Number of classes of a class-conditional model; none for other models.
    pub classes: Option<usize>,
    /// Steps of the training schedule.
    pub diffusion_steps: usize,
    /// The training schedule.
    pub noise_schedule: NoiseSchedule,
    /// True: the network receives `t * 1000 / diffusion_steps` in place of t.
    pub rescale_timesteps: bool,
    /// Height and width of the image must be multiples of this.
    pub size_multiple: usize,
    /// The meaning of the network's output.
    pub prediction: Prediction,
    /// For a latent model, where x is the latent of an image: how latents relate to images. None
    /// for a pixel model.
    pub latent: Option<Latent>,
}

/// The quantity that a network predicts.
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
    /// Image pixels along one side of a latent pixel.
    pub factor: usize,
    /// Channels of the image.
    pub image_channels: usize,
    /// x is the encoder's latent times this.
    pub scaling: f64,
}

impl Prior {
    /// An unconditional pixel model of three channels that accepts any image size and predicts eps,
    /// trained with 1000 steps of the linear schedule. Its fields can be changed.
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

    /// Shape of x for images of shape `image`: height and width are rounded up to the next multiple
    /// of `size_multiple`, and divided by `factor` in a latent model.
    pub fn canvas(&self, image: Shape) -> Shape {
        let factor = self.latent.map_or(1, |l| l.factor);
        let grown = |size: usize| size.next_multiple_of(self.size_multiple) / factor;
        Shape { h: grown(image.h), w: grown(image.w), c: self.channels, ..image }
    }

    /// Shape of the images that belong to a canvas: height and width of `image` rounded up to the
    /// next multiple of `size_multiple`.
    pub fn picture_canvas(&self, image: Shape) -> Shape {
        let (canvas, factor) = (self.canvas(image), self.latent.map_or(1, |l| l.factor));
        Shape { h: canvas.h * factor, w: canvas.w * factor, ..image }
    }
}

/// The condition image of a network with a ControlNet.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Its channels.
    pub channels: usize,
    /// The task that the ControlNet was trained for, if its file says so.
    pub task: Option<String>,
}

/// The conditioning of an evaluation, besides x and its timestep.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Conditioning {
    /// Labels (n, 1, 1, 1) of a class-conditional model.
    pub labels: Option<TensorId>,
    /// A text embedding (n or 1, 1, tokens, channels) in place of the model's own.
    pub text: Option<TensorId>,
    /// The condition image (n, h, w, channels) of a network with a ControlNet. Without it, such a
    /// network is its unconditional part.
    pub condition: Option<TensorId>,
    /// What [`Network::record_control`] gave.
    pub control: Option<Encoded>,
}

impl Conditioning {
    /// The same with these labels.
    pub fn labels(self, labels: impl Into<Option<TensorId>>) -> Conditioning {
        Conditioning { labels: labels.into(), ..self }
    }

    /// The same with this text embedding.
    pub fn text(self, text: impl Into<Option<TensorId>>) -> Conditioning {
        Conditioning { text: text.into(), ..self }
    }

    /// The same with this condition image.
    pub fn condition(self, condition: impl Into<Option<TensorId>>) -> Conditioning {
        Conditioning { condition: condition.into(), ..self }
    }

    /// The condition image. Fails if none is given.
    pub(super) fn condition_image(&self) -> Result<TensorId> {
        self.condition.ok_or_else(|| Error::Invalid("a ControlNet needs its condition image".into()))
    }

    /// The same with these additions to the outputs of the encoder half.
    pub fn control(self, control: impl Into<Option<Encoded>>) -> Conditioning {
        Conditioning { control: control.into(), ..self }
    }
}

/// A network that predicts eps or v.
pub trait Network: Send + Sync + std::fmt::Debug {
    /// The description of the network.
    fn prior(&self) -> Prior;

    /// Records the evaluation of x (n, h, w, channels) at timesteps t (n, 1, 1, 1). Gives (n, h, w,
    /// ..): eps or v, then the variance channels if the model learned them. Fails on a conditioning
    /// that the network does not take, and on labels that are missing.
    fn record(&self, g: &mut Graph, x: TensorId, t: TensorId, given: &Conditioning) -> Result<TensorId>;

    /// Shape of the text embedding of one item, (1, 1, tokens, channels). None if the model has no
    /// text embedding.
    fn text_shape(&self) -> Option<Shape> {
        None
    }

    /// Records a ControlNet: a copy of the encoder half that also reads the condition image of
    /// `given`. Gives what it adds to the outputs of the encoder half. Fails for networks that no
    /// ControlNet is defined for.
    fn record_control(
        &self,
        _g: &mut Graph,
        _control: &ControlConfig,
        _x: TensorId,
        _t: TensorId,
        _given: &Conditioning,
    ) -> Result<Encoded> {
        Err(Error::Invalid("no ControlNet is defined for this network".into()))
    }

    /// What a network with a ControlNet is conditioned on; none for other networks.
    fn condition(&self) -> Option<Condition> {
        None
    }

    /// The UNet of a latent model in diffusers layout; none for other networks.
    fn unet(&self) -> Option<&UnetConfig> {
        None
    }

    /// The autoencoder of a latent model; none for a pixel model.
    fn codec(&self) -> Option<&dyn Codec> {
        None
    }
}

/// The autoencoder between images and the latents of a latent model.
pub trait Codec {
    /// The relation of its latents to images. The network's [`Prior`] must give the same.
    fn latent(&self) -> Latent;

    /// Records the encoder of an image (n, h, w, image channels). Gives mean and log variance of
    /// its latent, not scaled: (n, h / factor, w / factor, 2 latent channels).
    fn encode(&self, g: &mut Graph, image: TensorId) -> Result<TensorId>;

    /// Records the decoder of a clean x, which is a scaled latent. Gives its image (n, h, w, image
    /// channels).
    fn decode(&self, g: &mut Graph, x0: TensorId) -> Result<TensorId>;
}
