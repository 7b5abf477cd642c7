//! Training of a conditional score estimator (CSE): a ControlNet that learns from a few photographs
//! what the measurement says about the score (Xu et al. 2025, section 4).
//!
//! ```text
//! photo --crop, flip, colours--> x0 --operator, noise--> y --naive restoration--> condition c
//! x_t = sqrt(abar) x0 + sqrt(1 - abar) n,   loss = mean || UNet(x_t, t; ControlNet(x_t, t, c)) - n ||^2
//! ```
//!
//! A step is one graph with planned memory: the loss, its gradients by the ControlNet's weights, and
//! AdamW. The UNet is frozen; only its decoder half is differentiated, because its encoder half does
//! not depend on the ControlNet. The gradients of several micro-batches can be added up before the
//! optimiser takes a step.

mod checkpoint;
mod data;
mod graph;
mod initial;
mod trainer;

pub use checkpoint::CHECKPOINT;
pub use data::{Augmentation, Example, Photos};
pub use trainer::{Report, TrainSettings, Trainer};
