//! Builds a [`Restorer`]. Defaults follow the model and the operator.

use super::measurement::Noise;
use super::method::Answer;
use super::restorer::Restorer;
use super::settings::Settings;
use crate::backend::Device;
use crate::error::Result;
use crate::graph::PlanOptions;
use crate::model::Model;
use crate::operator::Operator;
use crate::tensor::Shape;
use std::sync::Arc;

/// The parts that a [`Restorer`] is built from. See [`Restorer::builder`].
#[derive(Clone)]
pub struct RestorerBuilder<'a> {
    model: &'a Model,
    operator: &'a Arc<dyn Operator>,
    answer: Answer,
    noise: Noise,
    settings: Option<Settings>,
    width: usize,
    height: usize,
    batch: usize,
    plan: PlanOptions,
    device: Device,
}

impl Restorer {
    /// Starts to build a restorer of images of `width` x `height` pixels. The defaults are a batch
    /// of one image, the best method for [`Answer::Map`] and a noise of 0.025, f32 and the CPU.
    pub fn builder<'a>(
        model: &'a Model,
        operator: &'a Arc<dyn Operator>,
        width: usize,
        height: usize,
    ) -> RestorerBuilder<'a> {
        let (plan, device) = (PlanOptions::default(), Device::cpu());
        let (answer, noise) = (Answer::Map, Noise::default());
        RestorerBuilder { model, operator, answer, noise, settings: None, width, height, batch: 1, plan, device }
    }
}

impl RestorerBuilder<'_> {
    /// Takes the best method for this kind of answer, and its number of noise levels.
    pub fn answer(self, answer: Answer) -> Self {
        RestorerBuilder { answer, settings: None, ..self }
    }

    /// The noise that the best method is chosen for.
    pub fn noise(self, noise: Noise) -> Self {
        RestorerBuilder { noise, ..self }
    }

    /// Takes a method such as `dmap` or `dps:step=polyak:0.2`, with the number of noise levels that
    /// it was tuned for.
    pub fn method(self, method: &str) -> Result<Self> {
        let settings = Settings::parse(method, &self.model.network.prior())?;
        Ok(self.settings(settings))
    }

    /// Takes these settings: method, number of levels and schedule.
    pub fn settings(self, settings: Settings) -> Self {
        RestorerBuilder { settings: Some(settings), ..self }
    }

    /// Number of images restored at the same time.
    pub fn batch(self, batch: usize) -> Self {
        RestorerBuilder { batch, ..self }
    }

    /// Storage type and memory budget.
    pub fn plan(self, plan: PlanOptions) -> Self {
        RestorerBuilder { plan, ..self }
    }

    /// The device to run on.
    pub fn device(self, device: &Device) -> Self {
        RestorerBuilder { device: device.clone(), ..self }
    }

    /// Plans and allocates.
    pub fn build(self) -> Result<Restorer> {
        let prior = self.model.network.prior();
        let settings = match self.settings {
            Some(settings) => settings,
            None => Settings::auto(self.answer, self.model, self.operator.as_ref(), self.noise, None)?,
        };
        let image = Shape::new(self.batch, self.height, self.width, prior.image_channels());
        Restorer::new(self.model, self.operator, &settings, image, self.plan, &self.device)
    }
}
