//! Sums that many blocks share: each block leaves its part in scratch, and a second launch adds the
//! parts up in order, so that every run gives the same bits.

use super::prelude::*;

/// Chunks of pixels of which the kernels with kernels/include/channel_sums.cuh make sums.
pub(super) struct Chunks {
    /// Pixels of a chunk.
    pub pixels: usize,
    /// Number of chunks of an item.
    pub count: usize,
    /// Blocks of channels.
    pub columns: usize,
}

impl Chunks {
    /// Shared memory of a block in bytes, for each sum of a channel.
    pub const SHARED: usize = 8 * 128 * 4;

    /// Four blocks per multiprocessor if each then has 32 pixels.
    pub fn new(r: &Recorder<'_>, (items, pixels): (usize, usize), channels: usize) -> Chunks {
        let columns = channels.div_ceil(if channels.is_multiple_of(4) { 128 } else { 32 });
        let wanted = (4 * r.chip.multiprocessors).div_ceil(items * columns);
        let pixels_of_chunk = pixels.div_ceil(wanted).max(32);
        Chunks { pixels: pixels_of_chunk, count: pixels.div_ceil(pixels_of_chunk), columns }
    }
}

/// An f32 output, and what its sum is added to.
pub(super) type Sum = (Operand, Option<Operand>);

/// Records the launch that adds up `parts` parts of every value. `partial` holds for each part the
/// values of the first output, then those of the second, which has the same size.
pub(super) fn record(r: &mut Recorder<'_>, partial: Operand, parts: usize, (y, addend): Sum, second: Option<Sum>) {
    let count = y.shape.numel();
    let rows = (parts / 8).next_power_of_two().clamp(1, 32);
    let params = kernels::PartialSumsParams {
        y: y.into(),
        second: second.map(|s| s.0).into(),
        partial: partial.into(),
        addend: addend.into(),
        second_addend: second.and_then(|s| s.1).into(),
        count,
        parts,
        rows,
    };
    let blocks = (count * rows).div_ceil(256).min(16 * r.chip.multiprocessors);
    r.launch(kernels::PARTIAL_SUMS, [blocks, 1 + usize::from(second.is_some()), 1], 256, 1024, params);
}
