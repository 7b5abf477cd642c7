//! Builds a [`Restorer`] from what a caller wants to say, with defaults that follow the model and the operator.

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

/// What a [`Restorer`] is built from. See [`Restorer::builder`].
#[derive(Clone)]
pub struct RestorerBuilder<'a> {
    model: &'a Model,
    operator: &'a Arc<dyn Operator>,
    settings: Option<Settings>,
    width: usize,
    height: usize,
    batch: usize,
    plan: PlanOptions,
    device: Device,
}

impl Restorer {
    /// A restorer of images of `width` x `height` pixels: one at a time, by the method that gives the best image, in f32 on the CPU,
    /// unless it is told otherwise.
    pub fn builder<'a>(
        model: &'a Model,
        operator: &'a Arc<dyn Operator>,
        width: usize,
        height: usize,
    ) -> RestorerBuilder<'a> {
        let (plan, device) = (PlanOptions::default(), Device::cpu());
        RestorerBuilder { model, operator, settings: None, width, height, batch: 1, plan, device }
    }
}

impl RestorerBuilder<'_> {
    /// The method that is best for this answer.
    pub fn answer(self, answer: Answer) -> Result<Self> {
        let settings = Settings::auto(answer, &self.model.network.prior(), self.operator.as_ref())?;
        Ok(self.settings(settings))
    }

    /// A method such as `dmap` or `dps:step=polyak:0.2`, with as many levels as it was tuned with.
    pub fn method(self, method: &str) -> Result<Self> {
        let settings = Settings::parse(method, &self.model.network.prior())?;
        Ok(self.settings(settings))
    }

    /// Method, levels and schedule.
    pub fn settings(self, settings: Settings) -> Self {
        RestorerBuilder { settings: Some(settings), ..self }
    }

    /// Images restored at the same time.
    pub fn batch(self, batch: usize) -> Self {
        RestorerBuilder { batch, ..self }
    }

    /// Storage type and memory.
    pub fn plan(self, plan: PlanOptions) -> Self {
        RestorerBuilder { plan, ..self }
    }

    /// Where it runs.
    pub fn device(self, device: &Device) -> Self {
        RestorerBuilder { device: device.clone(), ..self }
    }

    /// Plans and allocates.
    pub fn build(self) -> Result<Restorer> {
        let prior = self.model.network.prior();
        let settings = match self.settings {
            Some(settings) => settings,
            None => Settings::auto(Answer::Map, &prior, self.operator.as_ref())?,
        };
        let image = Shape::new(self.batch, self.height, self.width, prior.image_channels());
        Restorer::new(self.model, self.operator, &settings, image, self.plan, &self.device)
    }
}
