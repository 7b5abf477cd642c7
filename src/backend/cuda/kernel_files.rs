// The files of the kernels' folder. Shared by build.rs, which includes this file, and the program, which may compile another folder.

use std::path::{Path, PathBuf};

/// A folder of `kernels/` that holds no kernels of the GPU: the emulated device.
const EMULATOR: &str = "emulator";

/// (name, text) of every file with this extension in `folder` and in the folders right under it, sorted. A name starts at
/// `folder`: `conv/mma.cu`. Files include each other by these names.
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

/// Name of a kernel file as a part of a file name.
pub fn flat(name: &str) -> String {
    name.replace('/', "-")
}
