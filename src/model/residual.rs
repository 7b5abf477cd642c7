//! What the residual blocks of all networks share.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::conv::Conv;

impl Graph {
    /// The skip path of a residual block: the channels of `x`, then those of `kept`; projected by the 1x1 convolution
    /// `name` if they are not `channels` in number.
    pub(super) fn past_block(
        &mut self,
        name: &str,
        x: TensorId,
        kept: Option<TensorId>,
        channels: usize,
    ) -> Result<TensorId> {
        let both = self.shape(x).c + kept.map_or(0, |k| self.shape(k).c);
        match kept {
            None if both == channels => Ok(x),
            Some(kept) if both == channels => self.concat(&format!("{name}.concat"), x, kept),
            _ => self.conv_as(Conv { joined: kept.is_some(), ..Conv::new(1, 1) }, name, x, channels, kept.as_slice()),
        }
    }
}
