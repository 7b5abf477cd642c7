//! The part of a driver that the CUDA backend needs.

use crate::error::Result;
use crate::launch::{Chip, Launch, NodeLaunches};
use std::time::Duration;

/// Memory, copies and launches of one device; all of them run in the order of the calls.
pub trait Driver: Send + Sync {
    /// Description of the device, for reports.
    fn name(&self) -> String;
    /// The chip that launches are made for.
    fn chip(&self) -> &Chip;
    /// Free device memory in bytes; none if the driver can't tell.
    fn free_bytes(&self) -> Result<Option<u64>>;
    /// Allocates device memory, aligned to 256 bytes, and returns its address. The error states how
    /// much memory was free.
    fn allocate(&self, bytes: u64) -> Result<u64>;
    /// Frees device memory after all earlier launches have ended.
    fn free(&self, address: u64);
    /// Allocates host memory that the device can read while it works. The address is valid on the
    /// device.
    fn allocate_host(&self, bytes: u64) -> Result<u64>;
    /// Frees host memory after all earlier launches have ended.
    fn free_host(&self, address: u64);
    /// Writes to memory from `allocate_host`.
    fn write_host(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Copies from host to device; the copy is complete on return. An asynchronous copy from
    /// pageable memory could read `bytes` too late, and `bytes` is often a temporary.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Copies from device to host, after all earlier launches.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies within the device.
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()>;
    /// Sets every byte to `value`.
    fn fill(&self, to: u64, bytes: u64, value: u8) -> Result<()>;
    /// Fails if the kernel does not exist or has a parameter struct of another size.
    fn check(&self, launch: &Launch) -> Result<()>;
    /// Prepares launches that are replayed in order many times.
    fn instantiate(&self, nodes: Vec<NodeLaunches>) -> Result<Box<dyn Replay>>;
}

/// Launches that were captured once.
pub trait Replay: Send {
    /// Runs all launches; may return before they have ended.
    fn run(&mut self) -> Result<()>;
    /// Runs node number `k` and waits for its end. An error names the node and its kernels.
    fn run_node(&mut self, k: usize) -> Result<()>;
    /// Runs all launches and returns the time on the device from the first to the last.
    fn time(&mut self) -> Result<Duration>;
}
