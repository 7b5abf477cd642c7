//! Predicts the time of a node on an H100 from its operations, bytes and launches. The constants
//! come from the measurements in `benches/records/2026-11-27-h100` and `2026-11-28-h200`;
//! `dmap bench --only nodes` prints the prediction beside the measured time.

use super::ops::size_of_tensor;
use crate::graph::{Graph, Node, TensorId};
use crate::launch::Launch;
use crate::tensor::Dtype;

/// Bytes per second from the L2 cache, and from device memory.
const L2: f64 = 7.0e12;
const DRAM: f64 = 2.9e12;
/// Size in bytes. A smaller tensor is still in the L2 cache when the next node reads it; a larger
/// one is read from device memory.
const CACHED: f64 = 24e6;
/// Seconds that a launch adds: the gap before it, and the time until all multiprocessors work.
const LAUNCH: f64 = 2.0e-6;
/// Operations per second: of bf16 tiles of 128x128 and of 64x64, of attention, and of f32 without
/// tensor cores.
const WIDE_TILE: f64 = 500e12;
const SMALL_TILE: f64 = 370e12;
const ATTENTION: f64 = 200e12;
const PLAIN: f64 = 30e12;
/// Operations per second of warpgroup products on the whole chip, and seconds that a launch of them
/// adds. Each multiprocessor runs one such block, which works on tile after tile.
const GROUP_TILE: f64 = 740e12;
const GROUP_TILE_START: f64 = 2e-6;
const MULTIPROCESSORS: f64 = 132.0;
/// Number of blocks of a product that run at the same time: two per multiprocessor.
const SLOTS: f64 = 264.0;

/// The work of a node and its predicted time.
pub(super) struct Prediction {
    pub operations: f64,
    pub l2_bytes: f64,
    pub dram_bytes: f64,
    /// Bytes of inputs and outputs, each counted once.
    pub operand_bytes: f64,
    pub seconds: f64,
}

/// The prediction for a node with these launches, if activations are stored in `storage`.
pub(super) fn predict(g: &Graph, node: &Node, launches: &[Launch], storage: Dtype) -> Prediction {
    let shapes = |ids: &[TensorId]| ids.iter().map(|&i| g.shape(i)).collect::<Vec<_>>();
    let operations = node.op.flops(&shapes(&node.inputs), &shapes(&node.outputs)) as f64;
    let sizes: Vec<f64> = node.inputs.iter().chain(&node.outputs).map(|&id| size_of_tensor(g, id, storage)).collect();
    let operand_bytes: f64 = sizes.iter().sum();
    let dram_bytes: f64 = sizes.iter().filter(|&&bytes| bytes > CACHED).sum();
    // A product that is split into parts has a second launch, which sums the parts and may have
    // more blocks.
    let is_product = |l: &Launch| l.kernel.contains("mma") || l.kernel.contains("attention");
    let main = launches.iter().max_by_key(|l| (is_product(l), l.grid.iter().map(|&n| u64::from(n)).product::<u64>()));
    let (mut l2_bytes, mut rate, mut start) = (operand_bytes, PLAIN, 0.0);
    if let Some(main) = main {
        let blocks = main.grid.iter().map(|&n| f64::from(n)).product::<f64>();
        let waves = (blocks / MULTIPROCESSORS).ceil();
        let tile = ["128x128", "64x64"].iter().position(|t| main.kernel.contains(t));
        if main.kernel.contains("wgmma") {
            rate = GROUP_TILE * blocks / (waves * MULTIPROCESSORS);
            start = waves * GROUP_TILE_START;
        } else if let Some(tile) = tile.filter(|_| main.kernel.contains("mma")) {
            let (side, peak) = if tile == 0 { (128.0, WIDE_TILE) } else { (64.0, SMALL_TILE) };
            // Each block reads two strips of `side` x `length`, where `length` is the length of the
            // sum. It takes 2 side^2 length operations.
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
    let seconds = work + start + launches.len() as f64 * LAUNCH;
    Prediction { operations, l2_bytes, dram_bytes, operand_bytes, seconds }
}
