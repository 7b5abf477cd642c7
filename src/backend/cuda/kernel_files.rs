// Reads the kernels' folder. build.rs includes this file, and the program uses it to compile the
// kernels of another folder.

use std::path::{Path, PathBuf};

/// A folder of `kernels/` without GPU kernels: it holds the emulated device.
const EMULATOR: &str = "emulator";

/// (name, text) of every file with this extension in `folder` and its direct subfolders, sorted. A
/// name is relative to `folder`: `conv/mma.cu`. Files include each other by these names.
pub fn read(folder: &Path, extension: &str) -> Result<Vec<(String, String)>, (PathBuf, std::io::Error)> {
    let mut all = Vec::new();
    read_level(folder, extension, "", &mut all)?;
    all.sort();
    Ok(all)
}

fn read_level(
    folder: &Path,
    extension: &str,
    prefix: &str,
    all: &mut Vec<(String, String)>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |e| (path, e)
    };
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            if prefix.is_empty() && name != EMULATOR {
                read_level(&path, extension, &format!("{name}/"), all)?;
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            all.push((name, std::fs::read_to_string(&path).map_err(failed(&path))?));
        }
    }
    Ok(())
}

/// The name of a kernel file with its folder, usable as a part of a file name.
pub fn flat(name: &str) -> String {
    name.replace('/', "-")
}
