//! From a node of the graph to kernel launches: operands, parameter structs, scratch.

mod operand;
mod params;

pub use operand::{Access, Either, Operand, Place, TensorMap};
pub use params::{Fields, Kernel, Parameters, Params, Pointer};

use crate::error::Result;
use crate::tensor::{Dtype, Shape};

/// What launch configurations depend on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared_bytes: usize,
    /// Whether it has the products of a warpgroup (`wgmma`) and copies of boxes, and this program kernels for them.
    pub wgmma: bool,
}

impl Limits {
    /// Those of an H100 or H200.
    pub const HOPPER: Limits = Limits { multiprocessors: 132, shared_bytes: 227 << 10, wgmma: true };
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel file in `kernels/`, without its ending: `conv/mma`.
    pub file: String,
    /// Symbol of the kernel.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory.
    pub shared: u32,
    /// Its parameter struct.
    pub params: Params,
}

/// The launches of one node, and what they have to write in full.
#[derive(Clone, Debug)]
pub struct NodeLaunches {
    /// Name of the node, for messages and profiles.
    pub node: String,
    /// Weights that come from the host first: where to, where from.
    pub copies: Vec<(Operand, u64)>,
    /// Outputs; true where one stands in the place of an input.
    pub outputs: Vec<(Operand, bool)>,
    /// In order.
    pub launches: Vec<Launch>,
    /// Bytes of scratch that they share with those of other nodes.
    pub scratch_bytes: u64,
}

/// Collects the launches of a node.
pub struct Recorder<'a> {
    /// Inputs of the node. One that the first output takes the place of has the same address.
    pub inputs: Vec<Operand>,
    /// Outputs of the node.
    pub outputs: Vec<Operand>,
    /// What launch configurations depend on.
    pub limits: &'a Limits,
    /// f32 products in full f32, not TF32.
    pub strict: bool,
    pub(super) scratch_base: u64,
    pub(super) scratch_used: u64,
    pub(super) tables: &'a mut dyn FnMut(&[u8]) -> Result<Operand>,
    pub(super) launches: Vec<Launch>,
}

impl Recorder<'_> {
    /// Room for `count` f32 values that lives as long as the node runs.
    pub fn scratch(&mut self, count: usize) -> Operand {
        let address = self.scratch_base + self.scratch_used;
        let bytes = 4 * count as u64;
        self.scratch_used += bytes.next_multiple_of(256);
        Operand { address, bytes, dtype: Dtype::F32, shape: Shape::vector(count) }
    }

    /// A fixed table of 32-bit values, uploaded once.
    pub fn table<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> Result<Operand> {
        (self.tables)(bytemuck::cast_slice(values))
    }

    /// Adds a launch of a kernel. Its parameters are the struct of the kernel file.
    pub fn launch<P: Parameters>(
        &mut self,
        kernel: Kernel<P>,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        params: P,
    ) {
        let grid = grid.map(|g| u32::try_from(g.max(1)).expect("a grid of fewer than 2^32 blocks"));
        debug_assert!(grid[1] <= 65535 && grid[2] <= 65535);
        let (file, kernel, params) = (kernel.file.into(), kernel.name.into(), Params::new().structure(params));
        self.launches.push(Launch { file, kernel, grid, block: block as u32, shared: shared as u32, params });
    }

    /// Adds a launch of 256 threads a block for `work` independent values of each of `items` items.
    pub fn each<P: Parameters>(&mut self, kernel: Kernel<P>, work: usize, items: usize, params: P) {
        let blocks = work.div_ceil(256).min(16 * self.limits.multiprocessors);
        self.launch(kernel, [blocks, items, 1], 256, 0, params);
    }
}
