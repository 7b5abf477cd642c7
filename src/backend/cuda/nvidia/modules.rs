//! The kernels of a chip: which image is loaded, and from where.

use super::super::first_use;
use super::super::images::{HEADERS, IMAGES, Image, NVRTC_VERSION, SOURCES, Source};
use super::shared::{OLDEST_DRIVER, Shared, failed};
use crate::error::{Error, Result};
use crate::launch::Launch;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};

/// CUDA error codes that mean a bad image rather than a failed device: invalid image, no binary for
/// this chip, invalid PTX, no PTX compiler, PTX of a newer version, PTX compilation disabled.
const IMAGE_REFUSED: [u32; 6] = [200, 209, 218, 221, 222, 223];

/// Minimum driver version, as 1000 major + 10 minor: at least the major version of the NVRTC that
/// made the images, and at least [`OLDEST_DRIVER`].
pub(super) fn least_driver() -> i32 {
    let major = NVRTC_VERSION.and_then(|v| v.split('.').next()?.parse::<i32>().ok());
    let of_images = if first_use::is_asked_for() { 0 } else { major.unwrap_or(0) * 1000 };
    of_images.max(OLDEST_DRIVER)
}

/// Whether wgmma kernels are available, embedded or to be compiled on first use.
pub(super) fn have_wgmma() -> bool {
    first_use::is_asked_for() || IMAGES.iter().any(|i| i.file == "conv/wgmma.cu")
}

impl Shared {
    /// The embedded images of a kernel file that this chip can run, best first: its own CUBIN, a
    /// CUBIN of its generation, PTX.
    fn images(&self, file: &'static str) -> Vec<&'static Image> {
        if first_use::is_asked_for() {
            return Vec::new();
        }
        let (major, minor) = self.capability;
        let exact = [format!("sm_{major}{minor}a"), format!("sm_{major}{minor}")];
        // A CUBIN of an earlier chip of the same generation runs too; a CUBIN ending with `a` runs
        // only on its own chip.
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

    /// Loads a kernel file: the first image that the driver accepts, else the source, compiled now.
    fn module(&self, source: &'static Source) -> Result<sys::CUmodule> {
        // SAFETY: a PTX image ends with a zero, and the image outlives the call.
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
        // Since Hopper, instructions that exist in one generation only need the architecture with
        // an `a`.
        let own = if major >= 9 { "a" } else { "" };
        let architecture = format!("sm_{major}{minor}{own}");
        let compiled = first_use::compiled(source, HEADERS, &architecture);
        let error = match compiled.and_then(|image| load(&image).map_err(failed(&what))) {
            Ok(module) => return Ok(module),
            Err(e) if first_use::is_asked_for() => return Err(e),
            Err(e) => e,
        };
        let name = source.name;
        let images = match &refused[..] {
            [] => format!("this binary has no image of kernels/{name} for {architecture}"),
            refused => format!(
                "the driver, for CUDA {}.{}, takes none of the images that NVRTC {} made of kernels/{name} ({}): update it",
                self.driver / 1000,
                self.driver % 1000 / 10,
                NVRTC_VERSION.unwrap_or("of an unknown version"),
                refused.join("; ")
            ),
        };
        Err(Error::Device(format!("{images}; and compiling it here failed: {error}")))
    }

    pub(super) fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
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
        // SAFETY: the module is loaded, and the name ends with a zero.
        unsafe {
            let name = CString::new(kernel).map_err(|e| Error::Failed(e.to_string()))?;
            let function = result::module::get_function(module, name).map_err(failed(kernel))?;
            functions.by_name.insert(kernel.to_string(), function);
            Ok(function)
        }
    }
}
