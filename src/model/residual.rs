//! The skip path that the residual blocks of all networks share.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::conv::{Conv, ConvExtra};

impl Graph {
    /// The skip path of a residual block: the channels of `x`, then those of `second`; projected by
    /// the 1x1 convolution `name` if their number is not `channels`.
    pub(super) fn past_block(
        &mut self,
        name: &str,
        x: TensorId,
        second: Option<TensorId>,
        channels: usize,
    ) -> Result<TensorId> {
        let both = self.shape(x).c + second.map_or(0, |s| self.shape(s).c);
        match second {
            None if both == channels => Ok(x),
            Some(second) if both == channels => self.concat(&format!("{name}.concat"), x, second),
            _ => self.conv_as(Conv::new(1, 1), name, x, channels, ConvExtra { second, ..ConvExtra::NONE }),
        }
    }
}
