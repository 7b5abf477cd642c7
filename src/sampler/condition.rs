//! The check that a model's conditional score estimator fits a task.

use crate::error::{Error, Result};
use crate::model::Network;
use crate::operator::Operator;

/// Fails if the network has a conditional score estimator that was trained for another task, or one
/// whose condition image has not `channels` channels.
pub fn check_condition(network: &dyn Network, operator: &dyn Operator, channels: usize) -> Result<()> {
    let Some(condition) = network.condition() else { return Ok(()) };
    let task = operator.task();
    match condition.task {
        Some(trained) if trained != task => Err(Error::Invalid(format!(
            "the conditional score estimator was trained for the task {trained}, not for {task}: give --task {trained}, or an \
             estimator of this task"
        ))),
        _ if condition.channels != channels => Err(Error::Invalid(format!(
            "the conditional score estimator reads an image of {} channels, a measurement of {task} has {channels}",
            condition.channels
        ))),
        _ => Ok(()),
    }
}
