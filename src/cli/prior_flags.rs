//! Flags that name the prior and what it is conditioned on.

use crate::error::{Error, Result};
use crate::model::{Model, Prior};
use clap::Args;

/// `--model`, `--prompt` and `--label`.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub(super) struct PriorFlags {
    /// Weight file of the prior, or folder of a latent model in diffusers layout; `photo` and
    /// `tiny-latent` are inside the program
    #[arg(long, default_value = "photo")]
    pub model: String,
    /// Text that a latent model is conditioned on [default: the cached one of its folder, else the
    /// empty text]
    #[arg(long)]
    pub prompt: Option<String>,
    /// Class of a class-conditional model
    #[arg(long)]
    pub label: Option<u32>,
}

impl PriorFlags {
    /// The model, conditioned on the text.
    pub fn open(&self) -> Result<Model> {
        Model::open_with_prompt(&self.model, self.prompt.as_deref())
    }

    /// The class. Fails if the model has no classes or too few.
    pub fn checked_label(&self, prior: &Prior) -> Result<Option<u32>> {
        match (self.label, prior.classes) {
            (None, None) => Ok(None),
            (None, Some(classes)) => {
                complain!("dmap: the model has {classes} classes and no --label is given: class 0 is taken");
                Ok(Some(0))
            }
            (Some(label), Some(classes)) if (label as usize) < classes => Ok(Some(label)),
            (Some(label), Some(classes)) => {
                Err(Error::Invalid(format!("--label {label}: the model has {classes} classes, 0 to {}", classes - 1)))
            }
            (Some(label), None) => {
                Err(Error::Invalid(format!("--label {label}: the model is not class-conditional; leave --label out")))
            }
        }
    }
}

/// Says what is doubtful about a model, if anything is.
pub(super) fn warn(model: &Model) {
    if let Some(warning) = &model.warning {
        complain!("dmap: {warning}");
    }
}
