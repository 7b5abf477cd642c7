//! What a node should take on an H100, by its operations, bytes and launches. The constants are what public code reaches on that chip and
//! what the kernels' tiles ask of its caches, not measurements of this program: `dmap bench --only nodes` prints both side by side.

use super::ops::size_of_tensor;
use crate::backend::cuda::launch::Launch;
use crate::graph::{Dtype, Graph, Node, TensorId};

/// Bytes per second out of the L2 cache, and out of memory.
const L2: f64 = 5.5e12;
const DRAM: f64 = 2.9e12;
/// A tensor of fewer bytes is still in the L2 cache when the next node reads it.
const CACHED: f64 = 24e6;
/// Seconds that a launch adds: the gap before it, and the ramp until all multiprocessors work.
const LAUNCH: f64 = 3.3e-6;
/// Operations per second of bf16 tiles of 128x128 and of 64x64, of attention, and of f32 without tensor cores.
const WIDE_TILE: f64 = 500e12;
const SMALL_TILE: f64 = 370e12;
const ATTENTION: f64 = 200e12;
const PLAIN: f64 = 30e12;
/// Blocks of a product that run at the same time: two a multiprocessor.
const SLOTS: f64 = 264.0;

/// What a node asks for.
pub(super) struct Prediction {
    pub operations: f64,
    pub l2_bytes: f64,
    pub dram_bytes: f64,
    /// Inputs and outputs, each once.
    pub operand_bytes: f64,
    pub seconds: f64,
}

/// The prediction for a node and its launches, activations stored in `storage`.
pub(super) fn predict(g: &Graph, node: &Node, launches: &[Launch], storage: Dtype) -> Prediction {
    let shapes = |ids: &[TensorId]| ids.iter().map(|&i| g.shape(i)).collect::<Vec<_>>();
    let operations = node.op.flops(&shapes(&node.inputs), &shapes(&node.outputs)) as f64;
    let sizes: Vec<f64> = node.inputs.iter().chain(&node.outputs).map(|&id| size_of_tensor(g, id, storage)).collect();
    let operand_bytes: f64 = sizes.iter().sum();
    let dram_bytes: f64 = sizes.iter().filter(|&&bytes| bytes > CACHED).sum();
    let main = launches.iter().max_by_key(|l| l.grid.iter().map(|&n| u64::from(n)).product::<u64>());
    let (mut l2_bytes, mut rate) = (operand_bytes, PLAIN);
    if let Some(main) = main {
        let blocks = main.grid.iter().map(|&n| f64::from(n)).product::<f64>();
        let tile = ["128x128", "64x64"].iter().position(|t| main.kernel.contains(t));
        if let Some(tile) = tile.filter(|_| main.kernel.contains("mma")) {
            let (side, peak) = if tile == 0 { (128.0, WIDE_TILE) } else { (64.0, SMALL_TILE) };
            // Each block reads two strips of its side over the whole sum: operations = 2 side^2 length.
            let length = operations / blocks / (2.0 * side * side);
            l2_bytes = blocks * 2.0 * side * length * storage.bytes() as f64;
            rate = peak * blocks / ((blocks / SLOTS).ceil() * SLOTS);
        } else if main.kernel.contains("attention") {
            rate = ATTENTION;
        } else if main.kernel.contains("mma") {
            rate = SMALL_TILE;
        }
    }
    let work = (operations / rate).max(l2_bytes / L2).max(dram_bytes / DRAM);
    let seconds = work + launches.len() as f64 * LAUNCH;
    Prediction { operations, l2_bytes, dram_bytes, operand_bytes, seconds }
}
