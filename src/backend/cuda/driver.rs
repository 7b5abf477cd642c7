//! What the CUDA backend needs of a driver, and nothing more.

use crate::error::Result;
use crate::launch::{Launch, Limits, NodeLaunches};
use std::time::Duration;

/// Memory, copies and launches of one device, all in one order.
pub trait Driver: Send + Sync {
    /// The device in words, for reports.
    fn name(&self) -> String;
    /// What launch configurations depend on.
    fn limits(&self) -> &Limits;
    /// Bytes that are free, where the driver knows.
    fn free_bytes(&self) -> Result<Option<u64>>;
    /// Memory that starts at a multiple of 256 bytes. An error says how much there was.
    fn allocate(&self, bytes: u64) -> Result<u64>;
    /// Gives memory back once everything launched so far has ended.
    fn free(&self, address: u64);
    /// Memory of the host that the device can copy from while it works, at an address of the device.
    fn allocate_host(&self, bytes: u64) -> Result<u64>;
    /// Gives memory of the host back once everything launched so far has ended.
    fn free_host(&self, address: u64);
    /// Fills memory of the host.
    fn write_host(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Host to device, done when this returns: where a device reads pageable memory by itself, a copy in a stream may be late, and
    /// `bytes` is often a temporary.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Device to host, after everything launched so far.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    /// Device to device.
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()>;
    /// Sets every byte.
    fn fill(&self, to: u64, bytes: u64, value: u8) -> Result<()>;
    /// Fails if a kernel is not there or takes another parameter struct than the launch has.
    fn check(&self, launch: &Launch) -> Result<()>;
    /// Makes launches ready to be replayed in order, again and again.
    fn instantiate(&self, nodes: Vec<NodeLaunches>) -> Result<Box<dyn Replay>>;
}

/// Launches captured once.
pub trait Replay: Send {
    /// Runs all; may return before they have ended.
    fn run(&mut self) -> Result<()>;
    /// Runs node number `k` and waits until it has ended. An error names it and its kernels.
    fn run_node(&mut self, k: usize) -> Result<()>;
    /// Runs all and gives the time from the first to the last on the device.
    fn time(&mut self) -> Result<Duration>;
}
