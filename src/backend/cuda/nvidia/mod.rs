//! The real driver: the CUDA driver API, loaded on first use. It uses one stream and plain
//! allocations; everything runs in order.

mod modules;
mod replay;
mod shared;

use super::driver::{Driver, Replay};
use super::first_use;
use crate::error::{Error, Result};
use crate::launch::{Chip, Launch, NodeLaunches};
use cudarc::driver::{result, sys};
use modules::least_driver;
use replay::Captured;
use shared::{Shared, failed};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Minimum compute capability: it has the instructions that the kernels use (cp.async, bf16 and
/// TF32 products).
const OLDEST: (i32, i32) = (8, 0);

/// Number of multiprocessors that launches are made for: the chip's, or `DMAP_MULTIPROCESSORS`.
/// With 2, small tensors reach every kernel.
fn multiprocessors(of_chip: usize) -> Result<usize> {
    match std::env::var("DMAP_MULTIPROCESSORS") {
        Err(_) => Ok(of_chip),
        Ok(text) => text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
            Error::Invalid(format!("DMAP_MULTIPROCESSORS is {text}; expected a number from 1 to 4096, or nothing"))
        }),
    }
}

/// A GPU.
pub struct Nvidia {
    shared: Arc<Shared>,
    name: String,
    chip: Chip,
}

impl Nvidia {
    /// Opens device number `ordinal`.
    pub fn open(ordinal: usize) -> Result<Nvidia> {
        first_use::check()?;
        // SAFETY: this only checks if the library loads; without the check cudarc would panic
        // later.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device("no CUDA driver on this machine (libcuda was not found)".into()));
        }
        // SAFETY: queries whose out-parameters live here.
        unsafe {
            let mut version = 0;
            sys::cuDriverGetVersion(&mut version).result().map_err(failed("version"))?;
            if version < least_driver() {
                let name = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
                return Err(Error::Device(format!(
                    "the CUDA driver speaks version {}, dmap's kernels need {} or newer; update the driver",
                    name(version),
                    name(least_driver())
                )));
            }
            result::init().map_err(|e| {
                let cause = failed("no usable device")(e);
                Error::Device(cause.to_string())
            })?;
            let count = result::device::get_count().map_err(failed("number of devices"))? as usize;
            if ordinal >= count {
                return Err(Error::Device(format!("there is no CUDA device {ordinal}: this machine has {count}")));
            }
            let device = result::device::get(ordinal as i32).map_err(failed("device"))?;
            let name = result::device::get_name(device).map_err(failed("device name"))?;
            use sys::CUdevice_attribute_enum as A;
            let attribute = |a| result::device::get_attribute(device, a).map_err(failed("device attribute"));
            let capability = (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            );
            if capability < OLDEST {
                return Err(Error::Device(format!(
                    "{name} has compute capability {}.{}, the kernels need {}.{} (Ampere) or newer",
                    capability.0, capability.1, OLDEST.0, OLDEST.1
                )));
            }
            let chip = Chip {
                multiprocessors: multiprocessors(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize)?,
                shared_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
                wgmma: capability == (9, 0) && modules::have_wgmma(),
            };
            let context = result::primary_ctx::retain(device).map_err(failed("context"))?;
            result::ctx::set_current(context).map_err(failed("context"))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("stream"))?;
            let shared = Shared { context, stream, capability, driver: version, functions: Mutex::default() };
            Ok(Nvidia { shared: Arc::new(shared), name: format!("{name} (cuda:{ordinal})"), chip })
        }
    }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn chip(&self) -> &Chip {
        &self.chip
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        self.shared.enter()?;
        result::mem_get_info().map(|(free, _)| Some(free as u64)).map_err(failed("free memory"))
    }
    fn allocate(&self, bytes: u64) -> Result<u64> {
        self.shared.enter()?;
        // SAFETY: a plain allocation.
        unsafe {
            result::malloc_sync(bytes as usize).map_err(|e| {
                // After a failed kernel every call fails; only this code means lack of memory.
                if e.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                    return failed("allocating")(e);
                }
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                if free as u64 >= bytes {
                    let (wanted, free) = (bytes.div_ceil(1 << 20), free >> 20);
                    let reason =
                        format!("{} can't give {wanted} MiB in one piece, though {free} MiB are free", self.name);
                    return Error::Memory(reason);
                }
                Error::Memory(format!(
                    "{} has {} MiB free of {} MiB, {} MiB more are needed",
                    self.name,
                    free >> 20,
                    total >> 20,
                    bytes.div_ceil(1 << 20)
                ))
            })
        }
    }
    fn free(&self, address: u64) {
        // SAFETY: an address from `allocate`, freed once, after all work that may use it.
        unsafe {
            let _ = self.shared.enter();
            let _ = result::stream::synchronize(self.shared.stream);
            let _ = result::free_sync(address);
        }
    }
    fn allocate_host(&self, bytes: u64) -> Result<u64> {
        self.shared.enter()?;
        let reason =
            |_| Error::Memory(format!("the machine can't give {} MiB of pinned memory", bytes.div_ceil(1 << 20)));
        // SAFETY: a plain allocation. Every supported device has unified addressing, so the address
        // holds on both sides.
        unsafe { result::malloc_host(bytes as usize, 0).map(|p| p as u64).map_err(reason) }
    }
    fn free_host(&self, address: u64) {
        // SAFETY: an address from `allocate_host`, freed once, after all work that may read it.
        unsafe {
            let _ = self.shared.enter();
            let _ = result::stream::synchronize(self.shared.stream);
            let _ = result::free_host(address as *mut c_void);
        }
    }
    fn write_host(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's range of an allocation by `allocate_host`, which nothing reads yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the caller's range, which lives until the copy is complete.
        unsafe { result::memcpy_htod_async(to, bytes, self.shared.stream).map_err(failed("copying to the device"))? }
        self.shared.synchronize()
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the caller's range; the stream is synchronised before `bytes` is read.
        unsafe {
            result::memcpy_dtoh_async(bytes, from, self.shared.stream).map_err(failed("copying from the device"))?
        };
        self.shared.synchronize()
    }
    fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the caller's ranges.
        unsafe {
            result::memcpy_dtod_async(to, from, bytes as usize, self.shared.stream)
                .map_err(failed("copying on the device"))
        }
    }
    fn fill(&self, to: u64, bytes: u64, value: u8) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the caller's range.
        unsafe { result::memset_d8_async(to, value, bytes as usize, self.shared.stream).map_err(failed("filling")) }
    }
    fn check(&self, launch: &Launch) -> Result<()> {
        let function = self.shared.function(launch)?;
        if launch.shared as usize > self.chip.shared_bytes {
            return Err(Error::Failed(format!(
                "kernel {}: {} bytes of shared memory, {} has {}",
                launch.kernel, launch.shared, self.name, self.chip.shared_bytes
            )));
        }
        // Launches of one kernel differ in shared memory, so the limit only grows.
        let mut functions = self.shared.functions.lock().unwrap_or_else(|e| e.into_inner());
        let allowed = functions.shared.entry(launch.kernel.clone()).or_insert(48 << 10);
        if launch.shared > *allowed {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            unsafe {
                result::function::set_function_attribute(function, attribute, launch.shared as i32)
                    .map_err(failed(&launch.kernel))?;
            }
            *allowed = launch.shared;
        }
        Ok(())
    }
    fn instantiate(&self, nodes: Vec<NodeLaunches>) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Captured::record(&self.shared, nodes)?))
    }
}
