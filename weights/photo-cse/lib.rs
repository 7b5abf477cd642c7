//! Conditional score estimators of `dmap` for its small pixel prior, as bytes. README.md says what
//! they are and how they were trained.

/// Their files: (path inside this package, content). The metadata of each name its task.
pub const FILES: &[(&str, &[u8])] = &[
    ("sr4.safetensors", include_bytes!("sr4.safetensors")),
    ("gaussian-blur.safetensors", include_bytes!("gaussian-blur.safetensors")),
];
