//! Compiling a kernel file on the machine that runs it, once: the image is kept in the user's cache folder.

use super::images::Source;
use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

/// The image of `source` for `architecture`, from the cache or from NVRTC, which `find` looks for only when it is needed.
pub fn compiled(
    source: &Source,
    headers: &[(&str, &str)],
    architecture: &str,
    find: impl FnOnce() -> Result<Nvrtc>,
) -> Result<Vec<u8>> {
    let mut hash = DefaultHasher::new();
    (source.text, headers, architecture, env!("CARGO_PKG_VERSION")).hash(&mut hash);
    let path = cache_folder().join(format!("{}.{architecture}.{:016x}", source.name, hash.finish()));
    if let Ok(image) = std::fs::read(&path) {
        return Ok(image);
    }
    let headers: Vec<_> = headers.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    let compiled = find()?
        .compile(source.name, source.text, &headers, architecture)
        .map_err(|log| Error::Device(format!("kernels/{} does not compile for {architecture}: {log}", source.name)))?;
    // A cache that can't be written costs time at the next start, nothing else.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let _ = std::fs::create_dir_all(cache_folder());
    if std::fs::write(&partial, &compiled.image).is_ok() {
        let _ = std::fs::rename(&partial, &path);
    }
    Ok(compiled.image)
}

fn cache_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("dmap")
}
