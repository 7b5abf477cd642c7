//! Trains a conditional score estimator step by step.

use super::data::{Augmentation, Example, Photos, Source};
use super::graph::{TrainingGraph, record};
use super::initial::initial;
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, Op, Plan, PlanOptions};
use crate::model::controlnet::{controlled, open_control};
use crate::model::stable_diffusion::TEXT_EMBEDDING;
use crate::model::{ControlConfig, Model, Network, Prediction, Prior};
use crate::noise::{Draw, NoiseKey};
use crate::operator::Operator;
use crate::ops::adamw::BETAS;
use crate::ops::storage_copy::StorageCopy;
use crate::sampler::{Noise, Schedule, Spacing, check_condition};
use crate::tensor::{Dtype, Shape, WeightPart};
use crate::weights::Weights;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of a training run. Two runs with equal settings give the same estimator.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrainSettings {
    /// Noise of the measurements.
    pub noise: Noise,
    /// Width and height of the training images, multiples of the model's size.
    pub size: (usize, usize),
    /// Images of a micro-batch.
    pub batch: usize,
    /// Micro-batches whose gradients are added up for one step.
    pub accumulate: usize,
    /// Learning rate of AdamW.
    pub rate: f64,
    /// Steps over which the learning rate rises to `rate`.
    pub warmup: usize,
    /// Weight decay of AdamW.
    pub decay: f64,
    /// The norm of all gradients together is limited to this.
    pub clip: f64,
    /// Largest weight of a noise level in the loss; see [`TrainSettings::level_weight`].
    pub weight_limit: f64,
    /// Seed of the photographs, their crops, noise and noise levels.
    pub seed: u64,
    /// How training images are made from photographs.
    pub augmentation: Augmentation,
    /// An estimator to start from; none starts with a copy of the encoder half.
    pub start: Option<PathBuf>,
    /// Write the estimator in f16. The state of the training stays f32.
    pub half: bool,
}

impl TrainSettings {
    /// The published settings with training images of `size`: a learning rate of 1e-5 that is
    /// constant, a weight decay of 0.01, gradients clipped to a norm of 1, and 4 images in a batch.
    pub fn new(size: (usize, usize)) -> TrainSettings {
        TrainSettings {
            noise: Noise::default(),
            size,
            batch: 4,
            accumulate: 1,
            rate: 1e-5,
            warmup: 0,
            decay: 0.01,
            clip: 1.0,
            weight_limit: 1.0,
            seed: 0,
            augmentation: Augmentation::default(),
            start: None,
            half: false,
        }
    }

    /// How often the squared error at a noise level counts, for a network that gives the noise: 1 / abar,
    /// which makes it the error of v, but at most the limit. A limit of 1 is the published loss, in
    /// which strong noise hardly counts: there the noise is known well whatever the image is. What v
    /// is counts everywhere already.
    pub fn level_weight(&self, alpha_bar: f64, prediction: Prediction) -> f64 {
        match prediction {
            Prediction::Epsilon => (1.0 / alpha_bar).min(self.weight_limit),
            Prediction::V => 1.0,
        }
    }

    /// The learning rate of step `step`, from 0 on.
    pub fn rate_at(&self, step: usize) -> f64 {
        self.rate * ((step + 1) as f64 / (self.warmup + 1) as f64).min(1.0)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// Steps done, with this one.
    pub step: usize,
    /// Mean square of the network's error before the step, all noise levels with the weight 1.
    pub loss: f64,
    /// Norm of all gradients together, before it is limited.
    pub gradient_norm: f64,
}

/// A training run on a device.
pub struct Trainer<'a> {
    /// The model whose network is frozen.
    pub(super) model: &'a Model,
    /// That network with the ControlNet.
    pub(super) network: Arc<dyn Network>,
    pub(super) control: ControlConfig,
    pub(super) operator: &'a dyn Operator,
    pub(super) photos: &'a Photos,
    pub(super) settings: TrainSettings,
    pub(super) executor: Executor,
    /// What was recorded; its graph is the executor's.
    pub(super) recorded: TrainingGraph,
    prior: Prior,
    alpha_bar: Vec<f64>,
    pub(super) step: usize,
    /// The first micro-batch of a step, prepared during the one before, with the number of the step.
    ahead: Option<(u32, Vec<Example>)>,
}

impl<'a> Trainer<'a> {
    /// Plans and allocates a run that trains a ControlNet of the usual shape for `model`. Fails if
    /// model, operator and settings do not fit each other.
    pub fn new(
        model: &'a Model,
        operator: &'a dyn Operator,
        photos: &'a Photos,
        settings: TrainSettings,
        plan: PlanOptions,
        device: &Device,
    ) -> Result<Trainer<'a>> {
        let prior = model.network.prior();
        let (control, start) = start(model, &settings)?;
        let (network, mut recorded) = recorded(model, &control, operator, &settings, plan.storage)?;
        let graph = std::mem::take(&mut recorded.graph);
        let executor = Executor::new(graph, &plan, &model.weights, device)?;
        let total = prior.diffusion_steps;
        let alpha_bar = Schedule::new(prior.noise_schedule, total, total, Spacing::Linear)?.alpha_bar;
        let mut trainer = Trainer {
            model,
            network,
            control,
            operator,
            photos,
            settings,
            executor,
            recorded,
            prior,
            alpha_bar,
            step: 0,
            ahead: None,
        };
        trainer.write_initial(start)?;
        Ok(trainer)
    }

    /// The graph of a step and its plan, without weights or a device.
    pub fn plan(
        model: &Model,
        operator: &dyn Operator,
        settings: &TrainSettings,
        plan: &PlanOptions,
    ) -> Result<(Graph, Plan)> {
        let control = ControlConfig::usual(&model.network.prior());
        let (_, recorded) = recorded(model, &control, operator, settings, plan.storage)?;
        let planned = Plan::new(&recorded.graph, plan)?;
        Ok((recorded.graph, planned))
    }

    /// What runs the steps.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// The settings of the run.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    fn write_initial(&mut self, start: Option<Weights>) -> Result<()> {
        let parts: Vec<WeightPart> = self.recorded.trained.iter().flat_map(|t| t.weight.parts.to_vec()).collect();
        for trained in &self.recorded.trained {
            let of_part = |p: &WeightPart| match &start {
                Some(start) => Ok(start.get(&p.name, p.shape)?.to_vec()),
                None => initial(self.network.as_ref(), &self.model.weights, p, &parts, self.settings.seed),
            };
            let values = trained.weight.parts.iter().map(of_part).collect::<Result<Vec<_>>>()?.concat();
            self.executor.write(trained.weight.kept, &values)?;
        }
        if let Some(text) = self.recorded.text {
            let shape = Shape { n: 1, ..self.executor.graph().shape(text) };
            let one = self.model.weights.get(TEXT_EMBEDDING, shape)?;
            self.executor.write(text, &one.repeat(self.settings.batch))?;
        }
        Ok(())
    }

    /// Takes one step on crops of the photographs. Fails if the loss is no longer finite; a checkpoint
    /// on disk stays as it is.
    pub fn step(&mut self) -> Result<Report> {
        if self.photos.files.is_empty() {
            return Err(Error::Invalid("there is no photograph to train on".into()));
        }
        let (batch, count, step) = (self.settings.batch as u32, self.settings.accumulate as u32, self.step as u32);
        let ((w, h), prior) = (self.settings.size, self.prior.clone());
        let source = Source {
            photos: self.photos,
            augmentation: self.settings.augmentation,
            operator: self.operator,
            noise: self.settings.noise,
            prior: &prior,
            image: Shape::new(1, h, w, prior.image_channels()),
            seed: self.settings.seed,
        };
        let batch_of = |step: u32, k: u32| source.batch(step, k * batch..(k + 1) * batch);
        let mut examples = match self.ahead.take() {
            Some((of_step, examples)) if of_step == step => examples,
            _ => batch_of(step, 0)?,
        };
        let mut loss = 0.0;
        for k in 0..count {
            // The next images, perhaps those of the next step, are prepared while the device computes.
            (loss, examples) = std::thread::scope(|scope| {
                let next = scope.spawn(|| if k + 1 < count { batch_of(step, k + 1) } else { batch_of(step + 1, 0) });
                let loss = loss + self.run(&examples, k as usize)?;
                Ok::<_, Error>((loss, next.join().expect("preparing images does not panic")?))
            })?;
        }
        self.ahead = Some((step + 1, examples));
        self.report(loss)
    }

    /// Takes one step on these micro-batches, as many and as large as the settings say.
    pub fn step_on(&mut self, batches: &[Vec<Example>]) -> Result<Report> {
        let TrainSettings { batch, accumulate, .. } = self.settings;
        if batches.len() != accumulate || batches.iter().any(|b| b.len() != batch) {
            return Err(Error::Invalid(format!("a step takes {accumulate} micro-batches of {batch} images")));
        }
        let loss = batches.iter().enumerate().map(|(k, b)| self.run(b, k)).sum::<Result<f64>>()?;
        self.report(loss)
    }

    /// Runs micro-batch `k` of a step. Gives its part of the loss.
    fn run(&mut self, examples: &[Example], k: usize) -> Result<f64> {
        let TrainSettings { batch, accumulate, size: (w, h), .. } = self.settings;
        self.write(examples, self.step as u32, (k * batch) as u32, k + 1 == accumulate)?;
        self.executor.run()?;
        let errors = self.executor.read(self.recorded.error)?;
        let values = self.prior.canvas(Shape::new(1, h, w, 3)).item() * batch * accumulate;
        Ok(errors.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>() / values as f64)
    }

    fn report(&mut self, loss: f64) -> Result<Report> {
        let squares = self.executor.read(self.recorded.squares)?[0];
        if !loss.is_finite() || !squares.is_finite() {
            let reason = format!(
                "the loss of step {} is {loss}: choose a smaller learning rate, or bf16 for f16",
                self.step + 1
            );
            return Err(Error::NotFinite { item: None, reason });
        }
        self.step += 1;
        Ok(Report { step: self.step, loss, gradient_norm: f64::from(squares).sqrt() })
    }

    /// Writes the inputs of a micro-batch whose first image has the number `first`.
    fn write(&mut self, examples: &[Example], step: u32, first: u32, is_last: bool) -> Result<()> {
        let (r, e, s) = (&self.recorded, &mut self.executor, &self.settings);
        let all = |of: &dyn Fn(&Example) -> Vec<f32>| examples.iter().flat_map(of).collect::<Vec<f32>>();
        e.write(r.images, &all(&|x| x.image.clone()))?;
        e.write(r.conditions, &all(&|x| x.condition.clone()))?;
        let scale = if self.prior.rescale_timesteps { 1000.0 / self.prior.diffusion_steps as f64 } else { 1.0 };
        e.write(r.t, &all(&|x| vec![(x.timestep as f64 * scale) as f32]))?;
        let item = self.prior.canvas(Shape::new(1, s.size.1, s.size.0, 3)).item() as f64;
        // The loss is the weighted sum of ||e||^2 over items, divided by the number of values of a step.
        let by_error = 2.0 / (item * (s.batch * s.accumulate) as f64);
        let row = |x: &Example| {
            let alpha_bar = self.alpha_bar[x.timestep];
            let (a, b) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
            let by_error = s.level_weight(alpha_bar, self.prior.prediction) * by_error;
            let (of_noise, of_x0) = if self.prior.prediction == Prediction::V { (a, -b) } else { (1.0, 0.0) };
            [a, b, of_noise, of_x0, by_error].map(|v| v as f32).to_vec()
        };
        e.write(r.coefficients, &all(&row))?;
        let keys = |draw: Draw| -> Vec<f32> {
            let words = |k: u32| NoiseKey { seed: s.seed, image: first + k, step, draw }.to_words();
            (0..examples.len() as u32).flat_map(words).map(f32::from_bits).collect()
        };
        e.write(r.noise_keys, &keys(Draw::Training))?;
        if let Some(encoder) = r.encoder_keys {
            e.write(encoder, &keys(Draw::Encoder))?;
        }
        let t = step as i32 + 1;
        let rate = s.rate_at(step as usize);
        let [by_m, by_v] = BETAS.map(|beta| 1.0 / (1.0 - beta.powi(t)));
        let take = if is_last { 1.0 } else { 0.0 };
        e.write(r.optimiser, &[take, rate, rate * s.decay, by_m, by_v, s.clip].map(|v| v as f32))
    }
}

/// The ControlNet that a run begins with, and its weights if they are read from files.
fn start(model: &Model, settings: &TrainSettings) -> Result<(ControlConfig, Option<Weights>)> {
    let Some(path) = &settings.start else { return Ok((ControlConfig::usual(&model.network.prior()), None)) };
    let (control, files) = open_control(path, model.network.as_ref(), &model.name)?;
    Ok((control, Some(Weights::none().with_part("controlnet.", files))))
}

/// The model's network with a ControlNet, and the graph of a run's steps.
fn recorded(
    model: &Model,
    control: &ControlConfig,
    operator: &dyn Operator,
    settings: &TrainSettings,
    storage: Dtype,
) -> Result<(Arc<dyn Network>, TrainingGraph)> {
    let prior = model.network.prior();
    let ((w, h), multiple) = (settings.size, prior.size_multiple);
    if w % multiple != 0 || h % multiple != 0 || w * h == 0 {
        return Err(Error::Invalid(format!("training images of {w}x{h}; this model takes multiples of {multiple}")));
    }
    if model.network.condition().is_some() {
        return Err(Error::Invalid("a model with a conditional score estimator is not trained with another".into()));
    }
    let image = Shape::new(settings.batch, h, w, prior.image_channels());
    operator.check(image)?;
    let network = controlled(&model.network, control, Some(operator.task()));
    check_condition(network.as_ref(), operator, image.c)?;
    let copy: Option<Arc<dyn Op>> = if storage == Dtype::F32 { None } else { Some(Arc::new(StorageCopy)) };
    let recorded = record(network.as_ref(), image, BETAS, copy)?;
    Ok((network, recorded))
}
