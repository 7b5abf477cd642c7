//! What build.rs embedded: kernel sources, and their images where NVRTC was there at build time.

/// A kernel file.
pub struct Source {
    /// Its file name.
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
    /// The image.
    pub bytes: &'static [u8],
    /// What the compiler said: registers, shared memory, spills.
    pub log: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The NVRTC that made the images, if they were made at build time.
pub const NVRTC_VERSION: Option<&str> = option_env!("DMAP_NVRTC_VERSION");
