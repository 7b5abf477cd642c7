//! The real driver: CUDA's driver API, loaded when first asked for. One stream, plain allocations, everything in order.

use super::driver::{Driver, Limits, Replay};
use super::first_use;
use super::images::{HEADERS, IMAGES, Image, NVRTC_VERSION, SOURCES, Source};
use super::launch::{Launch, NodeLaunches};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// First generation with the instructions that the kernels use (cp.async, bf16 and TF32 products).
const OLDEST: (i32, i32) = (8, 0);
/// First driver whose interface this crate asks for, as 1000 major + 10 minor.
const OLDEST_DRIVER: i32 = 12020;

/// The first driver that takes the images of this build: of the major version of the NVRTC that made them.
fn least_driver() -> i32 {
    let major = NVRTC_VERSION.and_then(|v| v.split('.').next()?.parse::<i32>().ok());
    let of_images = if first_use::is_asked_for() { 0 } else { major.unwrap_or(0) * 1000 };
    of_images.max(OLDEST_DRIVER)
}

/// How many multiprocessors launches are made for: the chip's, or `DMAP_MULTIPROCESSORS`. With 2 small tensors reach every kernel.
fn multiprocessors(of_chip: usize) -> Result<usize> {
    match std::env::var("DMAP_MULTIPROCESSORS") {
        Err(_) => Ok(of_chip),
        Ok(text) => text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
            Error::Invalid(format!("DMAP_MULTIPROCESSORS is {text}; expected a number from 1 to 4096, or nothing"))
        }),
    }
}

/// Results of loading an image that concern the image and not the device: not an image, not for this chip, PTX that is not sound,
/// no compiler of PTX, PTX of a newer version, of another kind.
const IMAGE_REFUSED: [u32; 6] = [200, 209, 218, 221, 222, 223];

/// A GPU.
pub struct Nvidia {
    shared: Arc<Shared>,
    name: String,
    limits: Limits,
}

struct Shared {
    context: sys::CUcontext,
    stream: sys::CUstream,
    capability: (i32, i32),
    /// The newest CUDA version that the driver speaks, as 1000 major + 10 minor.
    driver: i32,
    functions: Mutex<Functions>,
}

#[derive(Default)]
struct Functions {
    modules: HashMap<&'static str, sys::CUmodule>,
    by_name: HashMap<String, sys::CUfunction>,
    /// The most shared memory that a launch of a kernel was allowed so far.
    shared: HashMap<String, u32>,
}

// SAFETY: handles of the driver may be used from any thread that has made the context current, which every entry point does.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

fn failed(what: &str) -> impl FnOnce(result::DriverError) -> Error + '_ {
    move |e| {
        let said = |text: Result<&CStr, result::DriverError>| {
            text.map_or_else(|_| format!("error {}", e.0 as i32), |t| t.to_string_lossy().into_owned())
        };
        Error::Failed(format!("CUDA: {what}: {} ({})", said(e.error_string()), said(e.error_name())))
    }
}

impl Nvidia {
    /// Device number `ordinal`.
    pub fn open(ordinal: usize) -> Result<Nvidia> {
        // SAFETY: only looks whether the library loads; cudarc panics later if it does not.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device(
                "no CUDA driver on this machine (libcuda was not found); use --device cpu".into(),
            ));
        }
        // SAFETY: plain queries with out-parameters that live here.
        unsafe {
            let mut version = 0;
            sys::cuDriverGetVersion(&mut version).result().map_err(failed("version"))?;
            if version < least_driver() {
                let name = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
                return Err(Error::Device(format!(
                    "the CUDA driver speaks version {}, dmap's kernels need {} or newer; update the driver, or use --device cpu",
                    name(version),
                    name(least_driver())
                )));
            }
            result::init().map_err(|e| {
                let cause = failed("no usable device (--device cpu does without)")(e);
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
                    "{name} has compute capability {}.{}, the kernels need {}.{} (Ampere) or newer; use --device cpu",
                    capability.0, capability.1, OLDEST.0, OLDEST.1
                )));
            }
            let limits = Limits {
                multiprocessors: multiprocessors(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize)?,
                shared_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            };
            let context = result::primary_ctx::retain(device).map_err(failed("context"))?;
            result::ctx::set_current(context).map_err(failed("context"))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("stream"))?;
            let shared = Shared { context, stream, capability, driver: version, functions: Mutex::default() };
            Ok(Nvidia { shared: Arc::new(shared), name: format!("{name} (cuda:{ordinal})"), limits })
        }
    }
}

impl Shared {
    fn enter(&self) -> Result<()> {
        // SAFETY: the primary context is kept until the process ends.
        unsafe { result::ctx::set_current(self.context).map_err(failed("context")) }
    }

    /// The embedded images of a kernel file that this chip may take, the best first: its own CUBIN, those of its generation, PTX.
    fn images(&self, file: &'static str) -> Vec<&'static Image> {
        if first_use::is_asked_for() {
            return Vec::new();
        }
        let (major, minor) = self.capability;
        let exact = [format!("sm_{major}{minor}a"), format!("sm_{major}{minor}")];
        // A CUBIN of an earlier chip of the same generation runs too; the `a` ones run on their own chip only.
        let rank = |i: &Image| {
            let number = i.architecture.strip_prefix("sm_").and_then(|a| a.parse::<i32>().ok());
            let is_related = number.is_some_and(|n| n / 10 == major && n % 10 <= minor);
            match exact.iter().position(|e| e == i.architecture) {
                Some(k) => Some(k),
                None if is_related => Some(2),
                None => i.architecture.starts_with("compute_").then_some(3),
            }
        };
        let mut found: Vec<_> = IMAGES.iter().filter(|i| i.file == file).filter_map(|i| Some((rank(i)?, i))).collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, image)| image).collect()
    }

    /// Loads a kernel file: the first of its images that the driver takes, or else the source, compiled now.
    fn module(&self, source: &'static Source) -> Result<sys::CUmodule> {
        // SAFETY: an image ends with a zero where it is text, and lives over the call.
        let load = |image: &[u8]| unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
        let what = format!("loading kernels/{}", source.name);
        let mut refused = Vec::new();
        for image in self.images(source.name) {
            match load(&image.inflated()) {
                Ok(module) => return Ok(module),
                Err(e) if IMAGE_REFUSED.contains(&(e.0 as u32)) => {
                    refused.push(format!("{}: {}", image.architecture, failed(&what)(e)));
                }
                Err(e) => return Err(failed(&what)(e)),
            }
        }
        let (major, minor) = self.capability;
        // Instructions of one generation only have an architecture of their own, since Hopper.
        let own = if major >= 9 { "a" } else { "" };
        let compiled = first_use::compiled(source, HEADERS, &format!("sm_{major}{minor}{own}"));
        let error = match compiled.and_then(|image| load(&image).map_err(failed(&what))) {
            Ok(module) => return Ok(module),
            Err(e) if refused.is_empty() => return Err(e),
            Err(e) => e,
        };
        Err(Error::Device(format!(
            "the driver, for CUDA {}.{}, takes none of the images that NVRTC {} made of kernels/{} ({}), and compiling it here \
             failed: {error}; update the driver",
            self.driver / 1000,
            self.driver % 1000 / 10,
            NVRTC_VERSION.unwrap_or("of an unknown version"),
            source.name,
            refused.join("; ")
        )))
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let kernel = launch.kernel.as_str();
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = functions.by_name.get(kernel) {
            return Ok(*found);
        }
        let file = format!("{}.cu", launch.file);
        let source = SOURCES
            .iter()
            .find(|s| s.name == file)
            .ok_or_else(|| Error::Failed(format!("there is no kernels/{file}")))?;
        self.enter()?;
        let module = match functions.modules.get(source.name) {
            Some(module) => *module,
            None => {
                let module = self.module(source)?;
                functions.modules.insert(source.name, module);
                module
            }
        };
        // SAFETY: a loaded module; the name ends with a zero.
        unsafe {
            let name = CString::new(kernel).map_err(|e| Error::Failed(e.to_string()))?;
            let function = result::module::get_function(module, name).map_err(failed(kernel))?;
            functions.by_name.insert(kernel.to_string(), function);
            Ok(function)
        }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        let [x, y, z] = launch.grid;
        let mut words = vec![0u64; launch.params.bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..launch.params.bytes.len()]
            .copy_from_slice(&launch.params.bytes);
        // SAFETY: `check` compared the struct with the kernel's; its pointers lead into live allocations of the program.
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

    /// Copies from the host and launches of one node.
    fn run(&self, node: &NodeLaunches) -> Result<()> {
        for (to, from) in &node.copies {
            // SAFETY: pinned memory that is kept as long as the program, and room in its arena.
            unsafe {
                let bytes = std::slice::from_raw_parts(*from as *const u8, to.bytes as usize);
                result::memcpy_htod_async(to.address, bytes, self.stream).map_err(failed("copying weights"))?;
            }
        }
        node.launches.iter().try_for_each(|l| self.launch(l))
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream).map_err(failed("a kernel failed")) }
    }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn limits(&self) -> &Limits {
        &self.limits
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
                // After a failed kernel every call fails: only this code is about memory.
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
        // SAFETY: an address from `allocate`, given back once, after everything that may use it.
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
        // SAFETY: a plain allocation. With unified addressing, which every supported device has, its address holds on both sides.
        unsafe { result::malloc_host(bytes as usize, 0).map(|p| p as u64).map_err(reason) }
    }
    fn free_host(&self, address: u64) {
        // SAFETY: an address from `allocate_host`, given back once, after everything that may read it.
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
        // SAFETY: the caller's range, which lives until the copy is done.
        unsafe { result::memcpy_htod_async(to, bytes, self.shared.stream).map_err(failed("copying to the device"))? }
        self.shared.synchronize()
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the caller's range; synchronised before `bytes` is looked at.
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
        if launch.shared as usize > self.limits.shared_bytes {
            return Err(Error::Failed(format!(
                "kernel {}: {} bytes of shared memory, {} has {}",
                launch.kernel, launch.shared, self.name, self.limits.shared_bytes
            )));
        }
        // A kernel may be launched with more or less of it: the limit only grows.
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
        self.shared.enter()?;
        // SAFETY: the stream belongs to this device; nothing else records on it meanwhile.
        let graph = unsafe {
            result::stream::begin_capture(
                self.shared.stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            )
            .map_err(failed("recording"))?;
            let launched = nodes.iter().try_for_each(|n| self.shared.run(n));
            // A capture is ended whatever became of it, so that the stream can be used again; it may leave no graph.
            let captured = result::stream::end_capture(self.shared.stream).map_err(failed("recording"));
            if let (Err(_), Ok(graph)) = (&launched, &captured)
                && !graph.is_null()
            {
                let _ = result::graph::destroy(*graph);
            }
            launched?;
            captured?
        };
        // SAFETY: the graph just captured.
        let executable = unsafe {
            let executable =
                result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(failed("recording"));
            let _ = result::graph::destroy(graph);
            executable?
        };
        Ok(Box::new(Captured { shared: self.shared.clone(), executable, nodes }))
    }
}

struct Captured {
    shared: Arc<Shared>,
    executable: sys::CUgraphExec,
    nodes: Vec<NodeLaunches>,
}

// SAFETY: as for Shared.
unsafe impl Send for Captured {}

impl Replay for Captured {
    fn run(&mut self) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the executable graph lives as long as `self`.
        unsafe { result::graph::launch(self.executable, self.shared.stream).map_err(failed("launching the step")) }
    }
    fn run_node(&mut self, k: usize) -> Result<()> {
        self.shared.enter()?;
        let node = &self.nodes[k];
        let named = |e: Error| {
            let kernels: Vec<_> = node.launches.iter().map(|l| l.kernel.as_str()).collect();
            Error::Failed(format!("node {} ({}): {e}", node.node, kernels.join(", ")))
        };
        self.shared.run(node).and_then(|()| self.shared.synchronize()).map_err(named)
    }
    fn time(&mut self) -> Result<Duration> {
        self.shared.enter()?;
        let executable = self.executable;
        // SAFETY: the executable graph lives as long as `self`.
        self.shared.between_events("the timed launches", || unsafe {
            result::graph::launch(executable, self.shared.stream).map_err(failed("launching"))
        })
    }
    fn run_timed(&mut self) -> Result<Vec<Duration>> {
        self.shared.enter()?;
        self.nodes.iter().map(|node| self.shared.between_events(&node.node, || self.shared.run(node))).collect()
    }
}

impl Shared {
    /// The time on the device of what `launch` puts into the stream.
    fn between_events(&self, what: &str, launch: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"));
        let (start, end) = (event()?, event()?);
        let timed = || {
            // SAFETY: both events belong to this context.
            unsafe {
                result::event::record(start, self.stream).map_err(failed("event"))?;
                launch()?;
                result::event::record(end, self.stream).map_err(failed("event"))?;
                result::event::synchronize(end).map_err(failed(what))?;
                result::event::elapsed(start, end).map_err(failed("event"))
            }
        };
        let milliseconds = timed();
        // SAFETY: not used any more.
        unsafe {
            let _ = result::event::destroy(start);
            let _ = result::event::destroy(end);
        }
        Ok(Duration::from_secs_f64(f64::from(milliseconds?) * 1e-3))
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: nothing replays it any more once the stream is idle.
        unsafe {
            let _ = self.shared.enter();
            let _ = result::stream::synchronize(self.shared.stream);
            let _ = result::graph::exec_destroy(self.executable);
        }
    }
}
