//! The kernel sources that build.rs embedded, and their images if NVRTC was present at build time.

use std::io::Read;

/// A kernel file.
pub struct Source {
    /// Path in `kernels/`: `conv/mma.cu`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A kernel file compiled for one architecture.
pub struct Image {
    /// The kernel file.
    pub file: &'static str,
    /// For a CUBIN an architecture such as `sm_90a`; for PTX `compute_80`.
    pub architecture: &'static str,
    /// The image, compressed with deflate.
    pub deflated: &'static [u8],
    /// The compiler's output: registers, shared memory, spills.
    pub log: &'static str,
}

impl Image {
    /// The image in the form that a driver takes. PTX is text and ends with a zero.
    pub fn inflated(&self) -> Vec<u8> {
        let mut image = Vec::new();
        flate2::read::DeflateDecoder::new(self.deflated).read_to_end(&mut image).expect("build.rs deflated it");
        image.push(0);
        image
    }
}

/// Resources of one kernel on one architecture, according to the compiler.
pub struct Resources {
    /// Name of the kernel.
    pub kernel: String,
    /// See [`Image`].
    pub architecture: &'static str,
    /// Registers per thread.
    pub registers: usize,
    /// Bytes stored to and loaded from local memory because of register spills.
    pub spilled: usize,
}

/// Registers and spills of every kernel in every CUBIN of this build, sorted. Empty if the build
/// had no NVRTC.
pub fn resources() -> Vec<Resources> {
    let mut all = Vec::new();
    for image in IMAGES.iter().filter(|i| i.architecture.starts_with("sm_")) {
        let (mut kernel, mut spilled) = (String::new(), 0);
        for line in image.log.lines() {
            let number_before = |what: &str| -> Option<usize> {
                line.split(what).next().filter(|l| l.len() < line.len())?.split_whitespace().next_back()?.parse().ok()
            };
            if let Some(rest) = line.split("Compiling entry function '").nth(1) {
                kernel = rest.split('\'').next().unwrap_or_default().to_string();
            } else if let (Some(stores), Some(loads)) =
                (number_before(" bytes spill stores"), number_before(" bytes spill loads"))
            {
                spilled = stores + loads;
            } else if let Some(registers) = number_before(" registers") {
                let architecture = image.architecture;
                all.push(Resources { kernel: std::mem::take(&mut kernel), architecture, registers, spilled });
            }
        }
    }
    all.sort_by(|a, b| (&a.kernel, a.architecture).cmp(&(&b.kernel, b.architecture)));
    all
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Version of the NVRTC that made the images; none if the build made none.
pub const NVRTC_VERSION: Option<&str> = option_env!("DMAP_NVRTC_VERSION");
