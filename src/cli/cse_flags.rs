//! Flags of the conditional score estimator.

use crate::error::{Error, Result, shown};
use crate::model::{Model, PHOTO};
use crate::operator::Operator;
use crate::sampler::check_condition;
use clap::Args;
use std::path::{Path, PathBuf};

/// Flags of the conditional score estimator.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub(crate) struct CseFlags {
    /// Conditional score estimator, for the methods cse, dmap, dps and dsg: the folder of a
    /// ControlNet in diffusers layout, or what `dmap train-cse` wrote; `photo` is the one inside the
    /// program for the task
    #[arg(long, value_name = "PATH")]
    pub cse: Option<PathBuf>,
    /// Multiply what the estimator adds by this
    #[arg(long, value_name = "SCALE", default_value_t = 1.0, requires = "cse")]
    pub cse_scale: f64,
}

impl CseFlags {
    /// The model with the estimator, if one is given. Fails if it does not fit model or task.
    pub fn on(&self, model: Model, operator: &dyn Operator) -> Result<Model> {
        let Some(path) = &self.cse else { return Ok(model) };
        let scale = self.cse_scale;
        if !scale.is_finite() {
            let reason =
                format!("--cse-scale {scale}: a number is expected; 1, the default, is the scale of the training");
            return Err(Error::Invalid(reason));
        }
        let is_shipped = path == Path::new(PHOTO) && !path.exists();
        let model = match is_shipped {
            true => model.with_shipped_control(&operator.task(), scale)?,
            false => model.with_control(path, scale)?,
        };
        let channels = model.network.prior().image_channels();
        check_condition(model.network.as_ref(), operator, channels)
            .map_err(|e| Error::Invalid(format!("--cse {}: {e}", shown(path))))?;
        Ok(model)
    }
}
