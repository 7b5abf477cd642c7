//! From a node of the graph to kernel launches: operands, parameter structs, scratch.

mod forced;
mod operand;
mod params;

pub use forced::{Choice, Forced};
pub use operand::{Access, Either, Operand, Place, TensorMap};
pub use params::{Fields, Kernel, Parameters, Params, Pointer};

use crate::error::Result;
use crate::tensor::{Dtype, Shape};

/// Properties of a chip that launches depend on.
#[derive(Clone, Debug)]
pub struct Chip {
    /// Number of streaming multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory in bytes that a block may use.
    pub shared_bytes: usize,
    /// Whether the device has the products of a warpgroup (`wgmma`) and tensor copies, and this
    /// program has kernels for them.
    pub wgmma: bool,
}

impl Chip {
    /// An A100.
    pub const AMPERE: Chip = Chip { multiprocessors: 108, shared_bytes: 163 << 10, wgmma: false };
    /// An L40 or a GeForce of its generation.
    pub const ADA: Chip = Chip { multiprocessors: 142, shared_bytes: 99 << 10, wgmma: false };
    /// An H100 or H200.
    pub const HOPPER: Chip = Chip { multiprocessors: 132, shared_bytes: 227 << 10, wgmma: true };
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel file in `kernels/`, without its extension: `conv/mma`.
    pub file: String,
    /// Symbol of the kernel.
    pub kernel: String,
    /// Number of blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: u32,
    /// Shared memory per block in bytes.
    pub shared: u32,
    /// The parameter struct of the kernel.
    pub params: Params,
}

/// The launches of one node, and the outputs that they must write in full.
#[derive(Clone, Debug)]
pub struct NodeLaunches {
    /// Name of the node, for messages and profiles.
    pub node: String,
    /// Weights that are copied from host memory first: (target, source address).
    pub copies: Vec<(Operand, u64)>,
    /// Outputs; true if the output overwrites an input in place.
    pub outputs: Vec<(Operand, bool)>,
    /// The launches in order.
    pub launches: Vec<Launch>,
    /// The kernel variants that were chosen for them.
    pub choices: Vec<Choice>,
    /// Bytes of scratch that the node uses; all nodes share one scratch.
    pub scratch_bytes: u64,
}

/// Collects the launches of a node.
pub struct Recorder<'a> {
    /// Inputs of the node. If the op runs in place, that input has the address of the first output.
    pub inputs: Vec<Operand>,
    /// Outputs of the node.
    pub outputs: Vec<Operand>,
    /// The chip that the launches are for.
    pub chip: &'a Chip,
    /// f32 products may use TF32.
    pub tf32: bool,
    pub(super) scratch_base: u64,
    pub(super) scratch_used: u64,
    pub(super) tables: &'a mut dyn FnMut(&[u8]) -> Result<Operand>,
    /// Kernel variants that are recorded in place of the best ones.
    pub forced: &'a Forced,
    pub(super) launches: Vec<Launch>,
    pub(crate) choices: Vec<Choice>,
}

impl Recorder<'_> {
    /// Scratch for `count` f32 values; it is valid until the node has run.
    pub fn scratch(&mut self, count: usize) -> Operand {
        let address = self.scratch_base + self.scratch_used;
        let bytes = 4 * count as u64;
        self.scratch_used += bytes.next_multiple_of(256);
        Operand { address, bytes, dtype: Dtype::F32, shape: Shape::vector(count) }
    }

    /// A constant table of 32-bit values, uploaded once.
    pub fn table<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> Result<Operand> {
        (self.tables)(bytemuck::cast_slice(values))
    }

    /// Adds a launch. `params` is the parameter struct of the kernel file.
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

    /// Adds a launch with 256 threads per block, for `work` independent values in each of `items`
    /// batch items.
    pub fn each<P: Parameters>(&mut self, kernel: Kernel<P>, work: usize, items: usize, params: P) {
        let blocks = work.div_ceil(256).min(16 * self.chip.multiprocessors);
        self.launch(kernel, [blocks, items, 1], 256, 0, params);
    }
}
