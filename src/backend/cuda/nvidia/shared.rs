//! The context of one device, which all its objects share.

use crate::error::{Error, Result};
use crate::launch::{Launch, NodeLaunches, TensorMap};
use crate::tensor::Dtype;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::Mutex;

/// Minimum CUDA version of the driver, as 1000 major + 10 minor: the interface that this crate
/// calls.
pub(super) const OLDEST_DRIVER: i32 = 12020;

/// Images and kernels that are loaded.
#[derive(Default)]
pub(super) struct Functions {
    pub(super) modules: HashMap<&'static str, sys::CUmodule>,
    pub(super) by_name: HashMap<String, sys::CUfunction>,
    /// For each kernel, the largest shared memory in bytes that was allowed so far.
    pub(super) shared: HashMap<String, u32>,
}

/// Driver handles of one device.
pub(super) struct Shared {
    pub(super) context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) capability: (i32, i32),
    /// The newest CUDA version that the driver supports, as 1000 major + 10 minor.
    pub(super) driver: i32,
    pub(super) functions: Mutex<Functions>,
}

// SAFETY: any thread that has made the context current may use the handles, and every entry point
// makes it current.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

/// Turns a driver error into one that names the attempted action, with the driver's message and
/// code.
pub(super) fn failed(what: &str) -> impl FnOnce(result::DriverError) -> Error + '_ {
    move |e| {
        let said = |text: Result<&CStr, result::DriverError>| {
            text.map_or_else(|_| format!("error {}", e.0 as i32), |t| t.to_string_lossy().into_owned())
        };
        Error::Failed(format!("CUDA: {what}: {} ({})", said(e.error_string()), said(e.error_name())))
    }
}

impl Shared {
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the primary context is kept until the process ends.
        unsafe { result::ctx::set_current(self.context).map_err(failed("context")) }
    }

    pub(super) fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        let [x, y, z] = launch.grid;
        let mut words = vec![0u64; launch.params.bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..launch.params.bytes.len()]
            .copy_from_slice(&launch.params.bytes);
        for (at, map) in &launch.params.maps {
            encode(&mut words[at / 8..(at + TensorMap::BYTES) / 8], map)?;
        }
        // SAFETY: `check` compared the struct with the kernel's; its pointers point into live
        // allocations of the program.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared,
                self.stream,
                &mut [words.as_mut_ptr().cast::<c_void>()],
            )
        }
        .map_err(failed(&format!("launching {}", launch.kernel)))
    }

    /// Runs the copies from the host and the launches of one node.
    pub(super) fn run(&self, node: &NodeLaunches) -> Result<()> {
        for (to, from) in &node.copies {
            // SAFETY: the pinned memory lives as long as the program, and the target lies in its
            // arena.
            unsafe {
                let bytes = std::slice::from_raw_parts(*from as *const u8, to.bytes as usize);
                result::memcpy_htod_async(to.address, bytes, self.stream).map_err(failed("copying weights"))?;
            }
        }
        node.launches.iter().try_for_each(|l| self.launch(l))
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream).map_err(failed("a kernel failed")) }
    }
}

/// Encodes a tensor map in place of its pointer.
fn encode(to: &mut [u64], map: &TensorMap) -> Result<()> {
    let dtype = match map.operand.dtype {
        Dtype::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Dtype::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Dtype::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let (extents, strides) = (map.extents.map(|n| n as u64), map.stride_bytes());
    let (extent_of_box, step) = (map.extent_of_box.map(|n| n as u32), [1u32; 5]);
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays have as many numbers as the rank requires; the address lies in a live
    // allocation.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            dtype,
            5,
            to[0] as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            extent_of_box.as_ptr(),
            step.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(failed(&format!("a tensor map of {:?}", map.extents)))?;
    }
    to.copy_from_slice(&encoded.opaque);
    Ok(())
}
