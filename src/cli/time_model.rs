//! Predicts the time of a node on an H200 from its kernels, operations and bytes.
//!
//! `seconds = start + operations / (rate * fill) + bytes / bandwidth`, with constants per kernel in
//! time_model.tsv. `tools/time_model.py` fits them to the nodes that `dmap bench --only nodes`
//! measured. `fill` is the share of the chip that works: blocks run a number of `slots` at a time,
//! and the last round may be partial.

use crate::graph::{Graph, Node, TensorId};
use crate::launch::Launch;
use crate::tensor::Dtype;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// The card that the constants are of.
pub(super) const CARD: &str = "H200";
/// Size in bytes. A smaller tensor is still in the L2 cache when the next node reads it; a larger
/// one is read from device memory.
const CACHED: f64 = 24e6;
/// Names in the table that are no kernel: what no other row has, and the time between two nodes.
const OTHER: &str = "other";
const GAP: &str = "gap";
/// In the name of a kernel of tensor cores, before its tile.
const PRODUCT: &str = "mma";

/// Constants of a kernel. A rate is infinite where its work does not count.
struct Row {
    kernel: String,
    slots: f64,
    start_us: f64,
    tflops: f64,
    cached_tbs: f64,
    memory_tbs: f64,
}

fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let lines = include_str!("time_model.tsv").lines().filter(|l| !l.starts_with('#')).skip(1);
        let row = |line: &str| {
            let words: Vec<&str> = line.split('\t').collect();
            let number = |k: usize| words[k].parse().expect("the table has numbers");
            Row {
                kernel: words[0].into(),
                slots: number(1),
                start_us: number(2),
                tflops: number(3),
                cached_tbs: number(4),
                memory_tbs: number(5),
            }
        };
        lines.map(row).collect()
    })
}

/// The constants of a kernel. A product in tiles that were not measured has those of all tiles.
fn row(kernel: &str) -> &'static Row {
    let find = |name: &str| rows().iter().find(|row| row.kernel == name);
    let of_all_tiles = || kernel.find(PRODUCT).and_then(|at| find(&kernel[..at + PRODUCT.len()]));
    find(kernel).or_else(of_all_tiles).or_else(|| find(OTHER)).expect("the table has a row for other kernels")
}

/// Seconds between two nodes of a graph.
pub(super) fn gap() -> f64 {
    row(GAP).start_us / 1e6
}

/// The work of a node.
pub(super) struct Work {
    /// Names of its kernels.
    pub kernels: String,
    /// The kernel that does most of the work, without its storage type.
    pub kernel: String,
    /// Blocks of that kernel.
    pub blocks: f64,
    /// Number of launches.
    pub launches: usize,
    pub operations: f64,
    /// Bytes of inputs and outputs that fit into the L2 cache, each counted once.
    pub cached_bytes: f64,
    /// Bytes of the larger ones.
    pub memory_bytes: f64,
}

impl Work {
    /// The work of a node with these launches, if activations are stored in `storage`.
    pub fn of(g: &Graph, node: &Node, launches: &[Launch], storage: Dtype) -> Work {
        let shapes = |ids: &[TensorId]| ids.iter().map(|&i| g.shape(i)).collect::<Vec<_>>();
        let tensors: BTreeSet<TensorId> = node.inputs.iter().chain(&node.outputs).copied().collect();
        let sizes: Vec<f64> = tensors.into_iter().map(|i| bytes_of(g, i, storage)).collect();
        let blocks = |l: &Launch| l.grid.iter().map(|&n| u64::from(n)).product::<u64>();
        // A product that is split into parts has a second launch, which sums the parts and may have
        // more blocks; so has the sum before the gradients of attention.
        let is_product = |l: &Launch| l.kernel.contains(PRODUCT);
        let main = launches.iter().max_by_key(|l| (is_product(l), blocks(l)));
        let mut kernels: Vec<&str> = launches.iter().map(|l| l.kernel.as_str()).collect();
        kernels.dedup();
        Work {
            kernels: kernels.join(" "),
            kernel: main.map_or(String::new(), |l| l.kernel.replace(&format!("_{}", storage.name()), "")),
            blocks: main.map_or(0.0, |l| blocks(l) as f64),
            launches: launches.len(),
            operations: node.op.flops(&shapes(&node.inputs), &shapes(&node.outputs)) as f64,
            cached_bytes: sizes.iter().filter(|&&bytes| bytes <= CACHED).sum(),
            memory_bytes: sizes.iter().filter(|&&bytes| bytes > CACHED).sum(),
        }
    }

    /// The predicted time.
    pub fn seconds(&self) -> f64 {
        if self.launches == 0 {
            return 0.0;
        }
        let row = row(&self.kernel);
        let fill = self.blocks / ((self.blocks / row.slots).ceil() * row.slots);
        let work = self.operations / (row.tflops * 1e12 * fill);
        row.start_us / 1e6
            + work
            + self.cached_bytes / (row.cached_tbs * 1e12)
            + self.memory_bytes / (row.memory_tbs * 1e12)
    }
}

/// Bytes of a tensor if activations are stored in `storage`.
pub(super) fn bytes_of(g: &Graph, id: TensorId, storage: Dtype) -> f64 {
    let t = g.tensor(id);
    (t.shape.numel() * t.dtype(storage).bytes()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Params;
    use crate::tensor::Shape;

    fn work(kernel: &str, blocks: f64, operations: f64) -> Work {
        Work {
            kernels: String::new(),
            kernel: kernel.into(),
            blocks,
            launches: 1,
            operations,
            cached_bytes: 0.0,
            memory_bytes: 0.0,
        }
    }

    #[test]
    fn the_table_has_positive_constants_for_every_kernel_once() {
        let mut names: Vec<&str> = rows().iter().map(|row| row.kernel.as_str()).collect();
        assert!(names.contains(&OTHER) && names.contains(&GAP));
        for row in rows() {
            let rates = [row.slots, row.tflops, row.cached_tbs, row.memory_tbs];
            assert!(row.start_us >= 0.0 && rates.iter().all(|r| *r > 0.0), "{}", row.kernel);
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_tile_that_was_not_measured_has_the_row_of_all_tiles() {
        assert_eq!(row("conv_vjp_wgmma_7x7").kernel, "conv_vjp_wgmma");
        assert_eq!(row("no_such_kernel").kernel, OTHER);
    }

    #[test]
    fn bytes_take_their_time_by_where_they_are() {
        let (row, none) = (row("group_norm"), work("group_norm", 1.0, 0.0));
        let cached = Work { cached_bytes: row.cached_tbs * 1e12, ..work("group_norm", 1.0, 0.0) };
        let memory = Work { memory_bytes: row.memory_tbs * 1e12, ..work("group_norm", 1.0, 0.0) };
        assert!((cached.seconds() - none.seconds() - 1.0).abs() < 1e-9);
        assert!((memory.seconds() - none.seconds() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_node_has_its_product_as_kernel_and_each_tensor_once() {
        let mut g = Graph::new();
        let x = g.input("x", Shape::new(1, 1024, 1024, 4));
        let y = g.concat("y", x, x).unwrap();
        let launch = |kernel: &str, blocks| Launch {
            file: String::new(),
            kernel: kernel.into(),
            grid: [blocks, 2, 1],
            block: 256,
            shared: 0,
            params: Params::new(),
        };
        let launches = [launch("conv_mma_64x64_f32", 2), launch("sum_parts_f32", 100)];
        let found = Work::of(&g, &g.nodes()[0], &launches, Dtype::F32);
        assert_eq!((found.kernel.as_str(), found.blocks, found.launches), ("conv_mma_64x64", 4.0, 2));
        assert_eq!(found.cached_bytes, bytes_of(&g, x, Dtype::F32));
        assert_eq!(found.memory_bytes, bytes_of(&g, y, Dtype::F32));
    }

    #[test]
    fn a_partial_round_takes_as_long_as_a_whole_one() {
        let of = |blocks: f64| work("conv_wgmma_256x128_3x3", blocks, 1e9 * blocks);
        let slots = row("conv_wgmma_256x128_3x3").slots;
        assert!((of(slots / 2.0).seconds() / of(slots).seconds() - 1.0).abs() < 1e-9);
        assert!(of(slots + 1.0).seconds() > 1.5 * of(slots).seconds());
    }
}
