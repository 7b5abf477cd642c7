//! The analyses of a network: its score, DPS's and an estimator's along chains of one measurement,
//! and the diversity of samples. The posterior is not known, so a conditional model that the user
//! trusts takes its place.

pub mod diversity;
pub mod evaluator;
pub mod score_error;
pub mod score_mean;

use crate::backend::Device;
use crate::graph::PlanOptions;
use crate::model::Model;
use crate::operator::Operator;
use crate::sampler::Measurement;
use crate::tensor::Shape;
use std::sync::Arc;

/// A network, a measurement and the models that are compared.
pub struct NetworkProblem<'a> {
    /// The prior.
    pub model: &'a Model,
    /// A conditional model that stands for the posterior, if there is one.
    pub reference: Option<&'a Model>,
    /// The prior with a conditional score estimator, if there is one.
    pub cse: Option<&'a Model>,
    /// The operator.
    pub operator: &'a Arc<dyn Operator>,
    /// The measurement.
    pub measurement: &'a Measurement,
    /// Shape of the image, n = 1.
    pub image: Shape,
    /// Seed of the chains.
    pub seed: u64,
    /// Storage type and memory budget.
    pub plan: PlanOptions,
    /// The device to run on.
    pub device: &'a Device,
}
