//! Compiles kernel files on the machine that runs them. The image is kept in the user's cache
//! folder.
//!
//! This happens if the build has no image for the chip, and on request: with `DMAP_IMAGES=source`,
//! or with `DMAP_KERNELS` set to another folder of kernels, so that a kernel can be changed without
//! a build.

use super::images::Source;
use super::kernel_files;
use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// True if the images in the build must not be used.
pub fn is_asked_for() -> bool {
    std::env::var_os("DMAP_IMAGES").is_some() || std::env::var_os("DMAP_KERNELS").is_some()
}

/// Fails if `DMAP_IMAGES` has an unknown value.
pub fn check() -> Result<()> {
    match std::env::var_os("DMAP_IMAGES") {
        Some(other) if other != "source" => {
            Err(Error::Invalid(format!("DMAP_IMAGES is {}; expected source, or nothing", other.display())))
        }
        _ => Ok(()),
    }
}

/// The image of `source` for `architecture`, from the cache or newly compiled by NVRTC.
pub fn compiled(source: &Source, headers: &[(&str, &str)], architecture: &str) -> Result<Vec<u8>> {
    let nvrtc = Nvrtc::find(Path::new(".")).map_err(Error::Device)?;
    let (text, headers) = match std::env::var_os("DMAP_KERNELS") {
        Some(folder) => in_folder(Path::new(&folder), source.name)?,
        None => (source.text.to_string(), headers.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect()),
    };
    let mut hash = DefaultHasher::new();
    (&text, &headers, architecture, nvrtc.version, env!("CARGO_PKG_VERSION")).hash(&mut hash);
    let path =
        cache_folder().join(format!("{}.{architecture}.{:016x}", kernel_files::flat(source.name), hash.finish()));
    if let Ok(image) = std::fs::read(&path) {
        return Ok(image);
    }
    let compiled = nvrtc
        .compile(source.name, &text, &headers, architecture)
        .map_err(|log| Error::Device(format!("kernels/{} does not compile for {architecture}: {log}", source.name)))?;
    // A cache that can't be written only costs time at the next start.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let _ = std::fs::create_dir_all(cache_folder());
    if std::fs::write(&partial, &compiled.image).is_ok() {
        let _ = std::fs::rename(&partial, &path);
    }
    Ok(compiled.image)
}

/// The text of a kernel file in a folder laid out as `kernels/`, and the headers of that folder.
fn in_folder(folder: &Path, name: &str) -> Result<(String, Vec<(String, String)>)> {
    let path = folder.join(name);
    let headers = kernel_files::read(folder, "cuh").map_err(|(path, e)| Error::io(&path)(e))?;
    Ok((std::fs::read_to_string(&path).map_err(Error::io(&path))?, headers))
}

fn cache_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("dmap")
}
