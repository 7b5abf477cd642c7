//! The emulated driver: the kernels compiled as C++, run block by block on the CPU.
//!
//! Every tensor of a launch is copied to its own memory between guard bands of NaN. A read outside
//! a tensor makes the result NaN; a write outside is reported. Outputs start as NaN; an element
//! that is still NaN afterwards is reported as unwritten.

use super::driver::{Driver, Replay};
use crate::error::{Error, Result};
use crate::launch::{Access, Chip, Launch, NodeLaunches, Pointer, TensorMap};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn dmap_emulated_parameter_bytes(name: *const c_char) -> usize;
    fn dmap_emulated_threads(name: *const c_char) -> u32;
    fn dmap_emulated_kernels(out: *mut u8, room: usize) -> usize;
    #[allow(clippy::too_many_arguments)]
    fn dmap_emulated_block(
        name: *const c_char,
        parameters: *const u8,
        grid: *const u32,
        size: *const u32,
        at: *const u32,
        shared_bytes: u32,
        seed: u64,
        message: *mut c_char,
        room: usize,
    ) -> i32;
    fn dmap_emulated_encode(
        map: *mut u8,
        address: u64,
        extents: *const u64,
        strides: *const u64,
        extent_of_box: *const u32,
    ) -> i32;
}

const GUARD: usize = 4096;
const POISON: u8 = 0xff;

/// Names of all kernels.
pub fn kernels() -> Vec<String> {
    // SAFETY: the first call, without a buffer, returns the size; the second call fills exactly
    // that.
    let bytes = unsafe {
        let mut bytes = vec![0u8; dmap_emulated_kernels(std::ptr::null_mut(), 0)];
        dmap_emulated_kernels(bytes.as_mut_ptr(), bytes.len());
        bytes
    };
    bytes.split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| String::from_utf8_lossy(n).into_owned()).collect()
}

/// Maximum number of threads per block of a kernel; 0 if the kernel does not exist.
pub fn threads(kernel: &str) -> usize {
    // SAFETY: the name ends with a zero.
    CString::new(kernel).map_or(0, |name| unsafe { dmap_emulated_threads(name.as_ptr()) } as usize)
}

/// A chip that is emulated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EmulatedChip {
    /// An A100.
    Ampere,
    /// A chip with the shared memory of consumer chips.
    Ada,
    /// An H100, with warpgroup products and tensor copies.
    Hopper,
}

impl EmulatedChip {
    /// All emulated chips.
    pub const ALL: [EmulatedChip; 3] = [EmulatedChip::Ampere, EmulatedChip::Ada, EmulatedChip::Hopper];

    /// Name in device names and for `--device emulated:NAME`.
    pub fn name(self) -> &'static str {
        match self {
            EmulatedChip::Ampere => "ampere",
            EmulatedChip::Ada => "ada",
            EmulatedChip::Hopper => "hopper",
        }
    }

    /// The chip with two multiprocessors: small tensors then reach every launch configuration.
    pub fn chip(self) -> Chip {
        let chip = match self {
            EmulatedChip::Ampere => Chip::AMPERE,
            EmulatedChip::Ada => Chip::ADA,
            EmulatedChip::Hopper => Chip::HOPPER,
        };
        Chip { multiprocessors: 2, ..chip }
    }
}

/// For every kernel that has run in this process, and for each chip by its shared memory per block:
/// the shared memory in bytes of the largest launch. A test uses this to find kernels that never
/// ran.
pub fn kernels_run() -> BTreeMap<String, BTreeMap<usize, usize>> {
    RUN.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

static RUN: Mutex<BTreeMap<String, BTreeMap<usize, usize>>> = Mutex::new(BTreeMap::new());

/// The emulated driver.
pub struct Emulated {
    memory: Arc<Mutex<Memory>>,
    name: &'static str,
    chip: Chip,
    order: u64,
}

/// Total memory in bytes that the device reports. Allocations beyond it are not refused.
const MEMORY: u64 = 80 << 30;

/// Allocations by address. Addresses are never reused, so that a stale address is found.
struct Memory {
    next: u64,
    allocations: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    /// The `bytes` bytes from `address` on; an error if no allocation holds all of them.
    fn find(&mut self, address: u64, bytes: u64) -> Result<&mut [u8]> {
        let found = self.allocations.range_mut(..=address).next_back();
        match found {
            Some((start, data)) if address - start + bytes <= data.len() as u64 => {
                let at = (address - start) as usize;
                Ok(&mut data[at..at + bytes as usize])
            }
            _ => Err(Error::Failed(format!("{bytes} bytes at {address:#x} are not allocated"))),
        }
    }
}

impl Emulated {
    /// A chip with two multiprocessors. `order` decides the order of blocks and of the threads in a
    /// block; every number is another order.
    pub fn new(chip: EmulatedChip, order: u64) -> Emulated {
        let memory = Memory { next: 1 << 32, allocations: BTreeMap::new() };
        Emulated { memory: Arc::new(Mutex::new(memory)), name: chip.name(), chip: chip.chip(), order }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        format!("emulated CUDA device ({}, order {})", self.name, self.order)
    }
    fn chip(&self) -> &Chip {
        &self.chip
    }
    fn allocate(&self, bytes: u64) -> Result<u64> {
        let mut memory = self.memory();
        let address = memory.next;
        memory.next += bytes.next_multiple_of(256) + (1 << 20);
        memory.allocations.insert(address, vec![POISON; bytes as usize]);
        Ok(address)
    }
    fn free(&self, address: u64) {
        self.memory().allocations.remove(&address);
    }
    fn allocate_host(&self, bytes: u64) -> Result<u64> {
        self.allocate(bytes)
    }
    fn free_host(&self, address: u64) {
        self.free(address);
    }
    fn write_host(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.upload(to, bytes)
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        // NVIDIA's driver rounds large allocations up. Here all are rounded, so that many small
        // ones become visible.
        let rounded = |a: &Vec<u8>| (a.len() as u64).next_multiple_of(2 << 20);
        let taken: u64 = self.memory().allocations.values().map(rounded).sum();
        Ok(Some(MEMORY.saturating_sub(taken)))
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.memory().find(to, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.memory().find(from, bytes.len() as u64)?);
        Ok(())
    }
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        let mut memory = self.memory();
        let values = memory.find(from, bytes)?.to_vec();
        memory.find(to, bytes)?.copy_from_slice(&values);
        Ok(())
    }
    fn fill(&self, to: u64, bytes: u64, value: u8) -> Result<()> {
        self.memory().find(to, bytes)?.fill(value);
        Ok(())
    }
    fn check(&self, launch: &Launch) -> Result<()> {
        check(launch, &self.chip)
    }
    fn instantiate(&self, nodes: Vec<NodeLaunches>) -> Result<Box<dyn Replay>> {
        Ok(Box::new(EmulatedReplay { nodes, memory: self.memory.clone(), chip: self.chip.clone(), order: self.order }))
    }
}

fn check(launch: &Launch, chip: &Chip) -> Result<()> {
    let fault = |what: String| Err(Error::Failed(format!("kernel {}: {what}", launch.kernel)));
    let name = CString::new(launch.kernel.as_str()).map_err(|e| Error::Failed(e.to_string()))?;
    // SAFETY: the name ends with a zero.
    let expected = unsafe { dmap_emulated_parameter_bytes(name.as_ptr()) };
    if expected == 0 {
        return fault("there is no such kernel".into());
    }
    if expected != launch.params.bytes.len() {
        return fault(format!("its parameters take {expected} bytes, the launch has {}", launch.params.bytes.len()));
    }
    if launch.shared as usize > chip.shared_bytes {
        return fault(format!("{} bytes of shared memory of {}", launch.shared, chip.shared_bytes));
    }
    if launch.block == 0 || launch.block > 1024 || launch.grid[1] > 65535 || launch.grid[2] > 65535 {
        return fault(format!("a grid of {:?} blocks of {} threads", launch.grid, launch.block));
    }
    Ok(())
}

/// A copy of one tensor between guard bands.
struct Island {
    data: Vec<u64>,
    start: usize,
    bytes: usize,
    access: Access,
}

impl Island {
    fn new(bytes: &[u8]) -> Island {
        let words = (bytes.len() + 2 * GUARD).div_ceil(8) + 32;
        let mut data = vec![u64::MAX; words];
        let address = data.as_ptr() as usize + GUARD;
        let start = GUARD + address.next_multiple_of(256) - address;
        bytemuck::cast_slice_mut::<u64, u8>(&mut data)[start..start + bytes.len()].copy_from_slice(bytes);
        Island { data, start, bytes: bytes.len(), access: Access::Read }
    }
    fn all(&self) -> &[u8] {
        bytemuck::cast_slice(&self.data)
    }
    fn contents(&self) -> &[u8] {
        &self.all()[self.start..self.start + self.bytes]
    }
}

fn run_launch(memory: &Mutex<Memory>, launch: &Launch, chip: &Chip, order: u64) -> Result<()> {
    let fault = |what: String| Error::Failed(format!("kernel {}: {what}", launch.kernel));
    let mut run = RUN.lock().unwrap_or_else(|e| e.into_inner());
    let shared = run.entry(launch.kernel.clone()).or_default().entry(chip.shared_bytes).or_default();
    *shared = (*shared).max(launch.shared as usize);
    drop(run);
    let mut islands: BTreeMap<u64, Island> = BTreeMap::new();
    for Pointer { base, bytes, access, .. } in &launch.params.pointers {
        let mut memory = memory.lock().unwrap_or_else(|e| e.into_inner());
        let contents = memory.find(*base, *bytes)?;
        if !islands.contains_key(base) {
            islands.insert(*base, Island::new(contents));
        }
        if *access == Access::Write {
            islands.get_mut(base).expect("just inserted").access = Access::Write;
        }
    }
    let mut parameters = launch.params.bytes.clone();
    for Pointer { at, base, .. } in &launch.params.pointers {
        let field: [u8; 8] = parameters[*at..*at + 8].try_into().expect("eight bytes");
        let island = &islands[base];
        let moved = island.all().as_ptr() as u64 + island.start as u64 + (u64::from_le_bytes(field) - base);
        parameters[*at..*at + 8].copy_from_slice(&moved.to_le_bytes());
    }
    for (at, map) in &launch.params.maps {
        encode(&mut parameters[*at..*at + TensorMap::BYTES], map).map_err(fault)?;
    }
    let before: Vec<Vec<u8>> =
        islands.values().map(|i| if i.access == Access::Read { i.contents().to_vec() } else { Vec::new() }).collect();
    // The struct holds pointers, so it needs their alignment.
    let mut words = vec![0u64; parameters.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..parameters.len()].copy_from_slice(&parameters);
    let name = CString::new(launch.kernel.as_str()).map_err(|e| Error::Failed(e.to_string()))?;
    let [x, y, z] = launch.grid.map(u64::from);
    let blocks = x * y * z;
    (0..blocks as usize).into_par_iter().with_min_len(1 + blocks as usize / 64).try_for_each(|i| {
        let i = i as u64;
        // An odd order runs the blocks in reverse order.
        let i = if order % 2 == 0 { i } else { blocks - 1 - i };
        let at = [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32];
        let mut message = [0 as c_char; 256];
        // SAFETY: the kernel exists and takes this many bytes of parameters (checked before). The
        // memory that it points to lives until the end of this function. Guard bands show a kernel
        // that writes outside.
        let failed = unsafe {
            dmap_emulated_block(
                name.as_ptr(),
                words.as_ptr().cast(),
                launch.grid.as_ptr(),
                [launch.block, 1, 1].as_ptr(),
                at.as_ptr(),
                launch.shared,
                order.wrapping_mul(31).wrapping_add(i),
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        // SAFETY: the block left a message that ends with a zero.
        Err(fault(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned()))
    })?;
    let mut memory = memory.lock().unwrap_or_else(|e| e.into_inner());
    for ((base, island), before) in islands.iter().zip(before) {
        let all = island.all();
        let guards = [(&all[..island.start], "before"), (&all[island.start + island.bytes..], "past")];
        if let Some((_, side)) = guards.iter().find(|(g, _)| g.iter().any(|b| *b != POISON)) {
            return Err(fault(format!("a write {side} a tensor of {} bytes", island.bytes)));
        }
        if island.access == Access::Read {
            if island.contents() != before {
                return Err(fault(format!("a write to a tensor of {} bytes that it should only read", island.bytes)));
            }
        } else {
            memory.find(*base, island.bytes as u64)?.copy_from_slice(island.contents());
        }
    }
    Ok(())
}

/// Encodes a tensor map in place of its pointer.
fn encode(to: &mut [u8], map: &TensorMap) -> Result<(), String> {
    let address = u64::from_le_bytes(to[..8].try_into().expect("eight bytes"));
    if (map.first * map.operand.dtype.bytes()) as u64 + map.span() > map.operand.bytes {
        return Err(format!("a map reaches past a tensor of {} bytes: {map:?}", map.operand.bytes));
    }
    let (extents, strides) = (map.extents.map(|n| n as u64), map.stride_bytes());
    let extent_of_box = map.extent_of_box.map(|n| n as u32);
    let (extents, strides, extent_of_box) = (extents.as_ptr(), strides.as_ptr(), extent_of_box.as_ptr());
    // SAFETY: 128 bytes are written; the arrays have five, four and five numbers.
    let refused = unsafe { dmap_emulated_encode(to.as_mut_ptr(), address, extents, strides, extent_of_box) };
    if refused == 0 { Ok(()) } else { Err(format!("the driver would refuse a map: {map:?}")) }
}

struct EmulatedReplay {
    nodes: Vec<NodeLaunches>,
    memory: Arc<Mutex<Memory>>,
    chip: Chip,
    order: u64,
}

impl Replay for EmulatedReplay {
    fn run(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|k| self.run_node(k))
    }
    fn run_node(&mut self, k: usize) -> Result<()> {
        let node = &self.nodes[k];
        let lock = || self.memory.lock().unwrap_or_else(|e| e.into_inner());
        for (to, from) in &node.copies {
            let values = lock().find(*from, to.bytes)?.to_vec();
            lock().find(to.address, to.bytes)?.copy_from_slice(&values);
        }
        for (o, in_place) in &node.outputs {
            if !in_place {
                lock().find(o.address, o.bytes)?.fill(POISON);
            }
        }
        for launch in &node.launches {
            run_launch(&self.memory, launch, &self.chip, self.order)
                .map_err(|e| Error::Failed(format!("node {}: {e}", node.node)))?;
        }
        for (o, _) in &node.outputs {
            let mut memory = lock();
            let mut elements = memory.find(o.address, o.bytes)?.chunks_exact(o.dtype.bytes());
            if let Some(i) = elements.position(|e| e.iter().all(|b| *b == POISON)) {
                let kernels: Vec<_> = node.launches.iter().map(|l| l.kernel.as_str()).collect();
                let kernels = kernels.join(", ");
                return Err(Error::Failed(format!("node {} ({kernels}): element {i} is not written", node.node)));
            }
        }
        Ok(())
    }
    fn time(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.run()?;
        Ok(start.elapsed())
    }
}
