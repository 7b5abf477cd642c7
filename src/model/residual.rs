//! What the residual blocks of all networks share.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::conv::Conv;

impl Graph {
    /// What a residual block adds its result to: x and behind its channels those of `kept`, as they are or, where their number is not
    /// `channels`, through the 1x1 convolution `name`.
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
