//! The kernels of a chip: which image is loaded, and from where.

use super::super::first_use;
use super::super::images::{HEADERS, IMAGES, Image, NVRTC_VERSION, SOURCES, Source};
use super::shared::{OLDEST_DRIVER, Shared, failed};
use crate::error::{Error, Result};
use crate::launch::Launch;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};

/// Results of loading an image that concern the image and not the device: not an image, not for this chip, PTX that is not sound,
/// no compiler of PTX, PTX of a newer version, of another kind.
const IMAGE_REFUSED: [u32; 6] = [200, 209, 218, 221, 222, 223];

/// The first driver that takes the images of this build: of the major version of the NVRTC that made them.
pub(super) fn least_driver() -> i32 {
    let major = NVRTC_VERSION.and_then(|v| v.split('.').next()?.parse::<i32>().ok());
    let of_images = if first_use::is_asked_for() { 0 } else { major.unwrap_or(0) * 1000 };
    of_images.max(OLDEST_DRIVER)
}

/// Whether there are kernels for the products of a warpgroup: embedded, or compiled here. `DMAP_WGMMA=0` leaves them alone.
pub(super) fn have_wgmma() -> Result<bool> {
    match std::env::var("DMAP_WGMMA").as_deref() {
        Ok("0") => return Ok(false),
        Ok("1") | Err(_) => {}
        Ok(other) => return Err(Error::Invalid(format!("DMAP_WGMMA is {other}; expected 0 or 1"))),
    }
    Ok(first_use::is_asked_for() || IMAGES.iter().any(|i| i.file == "conv/wgmma.cu"))
}

impl Shared {
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
        // SAFETY: a loaded module; the name ends with a zero.
        unsafe {
            let name = CString::new(kernel).map_err(|e| Error::Failed(e.to_string()))?;
            let function = result::module::get_function(module, name).map_err(failed(kernel))?;
            functions.by_name.insert(kernel.to_string(), function);
            Ok(function)
        }
    }
}
