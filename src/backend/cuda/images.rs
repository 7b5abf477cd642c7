//! What build.rs embedded: kernel sources, and their images where NVRTC was there at build time.

use std::io::Read;

/// A kernel file.
pub struct Source {
    /// Its place in `kernels/`: `conv/mma.cu`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A kernel file compiled for one architecture.
pub struct Image {
    /// The kernel file.
    pub file: &'static str,
    /// `sm_90a` and the like for a CUBIN, `compute_80` for PTX.
    pub architecture: &'static str,
    /// The image, deflated.
    pub deflated: &'static [u8],
    /// What the compiler said: registers, shared memory, spills.
    pub log: &'static str,
}

impl Image {
    /// The image as a driver takes it. PTX is text and ends with a zero.
    pub fn inflated(&self) -> Vec<u8> {
        let mut image = Vec::new();
        flate2::read::DeflateDecoder::new(self.deflated).read_to_end(&mut image).expect("build.rs deflated it");
        image.push(0);
        image
    }
}

/// What the compiler said of one kernel on one architecture.
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// As in [`Image`].
    pub architecture: &'static str,
    /// Registers of a thread.
    pub registers: usize,
    /// Bytes stored to and loaded from local memory because registers ran out.
    pub spilled: usize,
}

/// Registers and spills of every kernel in every CUBIN of this build, sorted; empty where the build had no NVRTC.
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

/// The NVRTC that made the images, if they were made at build time.
pub const NVRTC_VERSION: Option<&str> = option_env!("DMAP_NVRTC_VERSION");
