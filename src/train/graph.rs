//! The graph of one training step.

use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Target, TensorId, TrainedWeight, gradients};
use crate::model::{Conditioning, Network, Prediction};
use crate::noise::KEY_WORDS;
use crate::ops::adamw_step::{AdamWStep, COEFFICIENTS};
use crate::ops::add::Scale;
use crate::ops::concat::ChannelSlice;
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::norm::{ResidualNorm, SquaredSum};
use crate::ops::normal_noise::NormalNoise;
use crate::tensor::Shape;
use std::sync::Arc;

/// Prefix of the weights that are trained.
const TRAINED: &str = "controlnet.";

/// Columns of the input `coefficients`, one row per item: sqrt(abar) and sqrt(1 - abar), what noise
/// and x0 are multiplied with in the network's target, and the factor that turns the norm of the
/// error into the loss's gradient with respect to it.
pub(super) const COLUMNS: usize = 5;

/// A weight under training with its optimiser's state. All are inputs of the graph in f32.
pub(super) struct Trained {
    pub weight: TrainedWeight,
    pub moments: [TensorId; 2],
}

/// The recorded graph: its inputs, and the outputs that are reported.
pub(super) struct TrainingGraph {
    pub graph: Graph,
    /// Images in [-1, 1], (n, h, w, channels).
    pub images: TensorId,
    /// Condition images, (n, h, w, channels).
    pub conditions: TensorId,
    /// Timesteps as the network takes them.
    pub t: TensorId,
    pub coefficients: TensorId,
    /// Coefficients of the optimiser; see [`AdamWStep`].
    pub optimiser: TensorId,
    pub noise_keys: TensorId,
    /// Keys of the encoder's sample, of a latent model.
    pub encoder_keys: Option<TensorId>,
    /// The text embedding, one per item, of a latent model.
    pub text: Option<TensorId>,
    pub trained: Vec<Trained>,
    /// Norm of the network's error per item.
    pub error: TensorId,
    /// Sum of the squares of all gradients.
    pub squares: TensorId,
}

/// Records the training step of a network with a ControlNet for `images` of this shape. `copy` makes
/// the copies of the weights that 16-bit kernels read.
pub(super) fn record(
    network: &dyn Network,
    images: Shape,
    betas: [f64; 2],
    copy: Option<Arc<dyn Op>>,
) -> Result<TrainingGraph> {
    let (prior, n) = (network.prior(), images.n);
    let Some(condition) = network.condition() else {
        return Err(Error::Invalid("only a network with a ControlNet is trained".into()));
    };
    if prior.classes.is_some() {
        return Err(Error::Invalid("class-conditional models are not trained with: take an unconditional one".into()));
    }
    let mut g = Graph::new();
    g.train(TRAINED, copy);
    let pictures = g.input("images", images);
    let conditions = g.input("conditions", Shape { c: condition.channels, ..images });
    let t = g.input("t", Shape::rows(n, 1));
    let coefficients = g.input("coefficients", Shape::rows(n, COLUMNS));
    let text = network.text_shape().map(|shape| g.input("text", Shape { n, ..shape }));

    // x0: the image, or a sample of its latent
    let (x0, encoder_keys) = match network.codec() {
        None => (pictures, None),
        Some(codec) => {
            let moments = codec.encode(&mut g, pictures)?;
            let keys = g.input("encoder.keys", Shape::rows(n, KEY_WORDS));
            let noise = g.one(NormalNoise { shape: prior.canvas(images) }, "encoder.noise", &[keys])?;
            let z = g.one(DiagonalGaussian, "encoder.sample", &[moments, noise])?;
            (g.one(Scale { scale: codec.latent().scaling as f32 }, "encoder.scaled", &[z])?, Some(keys))
        }
    };

    // x_t = sqrt(abar) x0 + sqrt(1 - abar) n, and what the network should give for it
    let noise_keys = g.input("noise.keys", Shape::rows(n, KEY_WORDS));
    let noise = g.one(NormalNoise { shape: g.shape(x0) }, "noise", &[noise_keys])?;
    let x_t = g.combine("x_t", coefficients, &[(0, x0), (1, noise)])?;
    let target = match prior.prediction {
        Prediction::Epsilon => noise,
        Prediction::V => g.combine("target", coefficients, &[(2, noise), (3, x0)])?,
    };

    // loss = mean over items and values of (network - target)^2
    let given = Conditioning::default().text(text).condition(conditions);
    let output = network.record(&mut g, x_t, t, &given)?;
    let predicted = match prior.learn_sigma {
        true => g.one(ChannelSlice { start: 0, len: prior.channels }, "predicted", &[output])?,
        false => output,
    };
    let error = g.one(ResidualNorm, "error", &[predicted, target])?;
    let by_error = g.combine("loss.vjp", coefficients, &[(4, error)])?;

    // The gradients are added to what earlier micro-batches left.
    let weights = g.trained().to_vec();
    let named = |g: &mut Graph, w: &TrainedWeight, what: &str| g.input(&format!("{}.{what}", w.name), g.shape(w.kept));
    let sums: Vec<TensorId> = weights.iter().map(|w| named(&mut g, w, "gradient")).collect();
    let targets: Vec<Target> =
        weights.iter().zip(&sums).map(|(w, &sum)| Target { tensor: w.read, addend: Some(sum) }).collect();
    let gradients = gradients(&mut g, error, by_error, &targets)?;
    let mut squares = None;
    for ((w, &sum), &gradient) in weights.iter().zip(&sums).zip(&gradients) {
        g.assign(sum, gradient)?;
        let inputs: Vec<TensorId> = [gradient].into_iter().chain(squares).collect();
        squares = Some(g.one(SquaredSum, &format!("{}.squares", w.name), &inputs)?);
    }
    let squares = squares.ok_or_else(|| Error::Invalid("the network reads no weight that is trained".into()))?;

    // AdamW
    let optimiser = g.input("optimiser", Shape::rows(1, COEFFICIENTS));
    let mut trained = Vec::with_capacity(weights.len());
    for ((weight, sum), gradient) in weights.into_iter().zip(sums).zip(gradients) {
        let moments = ["m", "v"].map(|what| named(&mut g, &weight, what));
        let inputs = [weight.kept, moments[0], moments[1], gradient, squares, optimiser];
        let next = g.add(AdamWStep { betas }, &format!("{}.adamw", weight.name), &inputs)?;
        for (state, value) in [weight.kept, moments[0], moments[1], sum].into_iter().zip(next) {
            g.assign(state, value)?;
        }
        trained.push(Trained { weight, moments });
    }
    g.output(error);
    g.output(squares);
    Ok(TrainingGraph {
        graph: g,
        images: pictures,
        conditions,
        t,
        coefficients,
        optimiser,
        noise_keys,
        encoder_keys,
        text,
        trained,
        error,
        squares,
    })
}
