//! From a node of the graph to kernel launches: operands, parameter structs, scratch.

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

/// A tensor in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// First byte.
    pub address: u64,
    /// Bytes of all elements.
    pub bytes: u64,
    /// Storage type.
    pub dtype: Dtype,
    /// Extent.
    pub shape: Shape,
}

/// What a kernel does with memory that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it, in part or in full.
    Write,
}

/// A pointer inside a parameter struct.
#[derive(Clone, Copy, Debug)]
pub struct Pointer {
    /// Byte of the struct at which it stands.
    pub at: usize,
    /// First byte and length of the memory that it leads into.
    pub base: u64,
    /// See `base`.
    pub bytes: u64,
    /// What the kernel does there.
    pub access: Access,
}

/// A tensor of 16-bit values as the copy engine sees it (kernels/include/bulk.cuh): boxes of it go to and from shared memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    /// What it lies in.
    pub operand: Operand,
    /// Its first element there.
    pub first: usize,
    /// Extents, the fastest first; 1 where there are fewer than five.
    pub extents: [usize; 5],
    /// Elements from one to the next of the second extent and later ones.
    pub strides: [usize; 4],
    /// What one copy takes of each extent; 64 of the first.
    pub extent_of_box: [usize; 5],
    /// What the kernel does there.
    pub access: Access,
}

impl TensorMap {
    /// Bytes of a map in a parameter struct.
    pub const BYTES: usize = 128;

    /// Bytes between elements of the second extent and later ones.
    pub(crate) fn stride_bytes(&self) -> [u64; 4] {
        self.strides.map(|s| (s * self.operand.dtype.bytes()) as u64)
    }

    /// Bytes from the first element to the end of the last.
    pub(crate) fn span(&self) -> u64 {
        let steps = self.extents[1..].iter().zip(self.stride_bytes()).map(|(&n, stride)| (n - 1) as u64 * stride);
        steps.sum::<u64>() + (self.extents[0] * self.operand.dtype.bytes()) as u64
    }
}

/// The by-value parameter struct of a kernel: fields in the order of the .cu file, aligned as C++ aligns them.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The struct so far.
    pub bytes: Vec<u8>,
    /// Its pointers.
    pub pointers: Vec<Pointer>,
    /// Its maps, and the bytes at which they stand. Each starts with a pointer until the driver encodes it.
    pub maps: Vec<(usize, TensorMap)>,
}

impl Params {
    /// An empty struct.
    pub fn new() -> Params {
        Params::default()
    }

    fn push(mut self, alignment: usize, bytes: &[u8]) -> Params {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pointer(mut self, o: &Operand, elements: usize, access: Access) -> Params {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.pointers.push(Pointer { at: self.bytes.len(), base: o.address, bytes: o.bytes, access });
        self.push(8, &(o.address + (elements * o.dtype.bytes()) as u64).to_le_bytes())
    }

    /// `const T*`
    pub fn read(self, o: &Operand) -> Params {
        self.pointer(o, 0, Access::Read)
    }
    /// `T*`
    pub fn write(self, o: &Operand) -> Params {
        self.pointer(o, 0, Access::Write)
    }
    /// `const T*`, from element `first` on.
    pub fn read_from(self, o: &Operand, first: usize) -> Params {
        self.pointer(o, first, Access::Read)
    }
    /// `T*`, from element `first` on.
    pub fn write_from(self, o: &Operand, first: usize) -> Params {
        self.pointer(o, first, Access::Write)
    }
    /// `const T*` that may be absent.
    pub fn read_if(self, o: Option<&Operand>) -> Params {
        match o {
            Some(o) => self.read(o),
            None => self.i64(0),
        }
    }
    /// `T*` that may be absent.
    pub fn write_if(self, o: Option<&Operand>) -> Params {
        match o {
            Some(o) => self.write(o),
            None => self.i64(0),
        }
    }
    /// A `View` that is read, from element `first` on.
    pub fn view_at(self, o: &Operand, first: usize) -> Params {
        self.pointer(o, first, Access::Read).dtype(o.dtype)
    }
    /// A `View` that is read.
    pub fn view(self, o: &Operand) -> Params {
        self.view_at(o, 0)
    }
    /// A `View` that may be absent.
    pub fn view_if(self, o: Option<&Operand>) -> Params {
        match o {
            Some(o) => self.view(o),
            None => self.i64(0).i64(0),
        }
    }
    /// A `View` that is written, from element `first` on.
    pub fn view_out_at(self, o: &Operand, first: usize) -> Params {
        self.pointer(o, first, Access::Write).dtype(o.dtype)
    }
    /// A `View` that is written.
    pub fn view_out(self, o: &Operand) -> Params {
        self.view_out_at(o, 0)
    }
    /// A `TensorMap` that may be absent.
    pub fn map(mut self, map: Option<&TensorMap>) -> Params {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let (at, end) = (self.bytes.len(), self.bytes.len() + TensorMap::BYTES);
        if let Some(map) = map {
            self.maps.push((at, *map));
            self = self.pointer(&map.operand, map.first, map.access);
        }
        self.bytes.resize(end, 0);
        self
    }
    /// `i64`
    pub fn i64(self, v: usize) -> Params {
        self.push(8, &(v as i64).to_le_bytes())
    }
    /// The number of a storage type, an `i64`.
    pub fn dtype(self, dtype: Dtype) -> Params {
        self.i64(dtype_code(dtype))
    }
    /// `int`
    pub fn i32(self, v: usize) -> Params {
        self.push(4, &(v as i32).to_le_bytes())
    }
    /// Several `int`.
    pub fn i32s(self, values: &[usize]) -> Params {
        values.iter().fold(self, |p, &v| p.i32(v))
    }
    /// `float`
    pub fn f32(self, v: f32) -> Params {
        self.push(4, &v.to_le_bytes())
    }
    /// Whole struct: padded to the alignment of its pointers and maps.
    pub(super) fn finish(mut self) -> Params {
        let alignment = if self.maps.is_empty() { 8 } else { 64 };
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }
}

fn dtype_code(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
    }
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

    /// Adds a launch of `file::kernel`, or of the kernel that is called like its file.
    pub fn launch(&mut self, kernel: impl Into<String>, grid: [usize; 3], block: usize, shared: usize, params: Params) {
        let grid = grid.map(|g| u32::try_from(g.max(1)).expect("a grid of fewer than 2^32 blocks"));
        debug_assert!(grid[1] <= 65535 && grid[2] <= 65535);
        let (name, params) = (kernel.into(), params.finish());
        let (file, kernel) = name.split_once("::").unwrap_or((&name, &name));
        let (file, kernel) = (file.to_string(), kernel.to_string());
        self.launches.push(Launch { file, kernel, grid, block: block as u32, shared: shared as u32, params });
    }

    /// Adds a launch of 256 threads a block for `work` independent values of each of `items` items.
    pub fn each(&mut self, kernel: impl Into<String>, work: usize, items: usize, params: Params) {
        let blocks = work.div_ceil(256).min(16 * self.limits.multiprocessors);
        self.launch(kernel, [blocks, items, 1], 256, 0, params);
    }
}
