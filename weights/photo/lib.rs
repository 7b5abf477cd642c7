//! The small pixel prior of `dmap`, as bytes. README.md says what it is and how it was trained.

/// Its files: (path inside this package, content).
pub const FILES: &[(&str, &[u8])] = &[("photo.safetensors", include_bytes!("photo.safetensors"))];
