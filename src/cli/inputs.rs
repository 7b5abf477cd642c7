//! Files, folders and patterns become a list of pictures with an output folder each.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const PICTURES: [&str; 11] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "pnm", "safetensors"];

/// One input and the name of its output folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Its stem, or its whole name where two inputs share a stem.
    pub name: String,
}

/// Expands what was typed. Folders give their pictures in order of name.
pub fn expand(typed: &[String]) -> Result<Vec<Input>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for text in typed {
        let path = Path::new(text);
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
            let mut inside: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_picture(p)).collect();
            inside.sort();
            if inside.is_empty() {
                return Err(Error::Invalid(format!("{text}: no pictures in this folder")));
            }
            paths.append(&mut inside);
        } else if !path.exists() && text.contains(['*', '?', '[']) {
            let found = glob::glob(text).map_err(|e| Error::Invalid(format!("{text}: not a pattern ({e})")))?;
            let mut found: Vec<PathBuf> = found.flatten().collect();
            if found.is_empty() {
                return Err(Error::Invalid(format!("{text}: no file matches")));
            }
            paths.append(&mut found);
        } else {
            // A missing file is reported when it is its turn, so that the others are restored.
            paths.push(path.to_path_buf());
        }
    }
    let mut seen = HashSet::new();
    paths.retain(|p| seen.insert(p.clone()));
    let stem = |p: &Path| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = HashSet::new();
    Ok((paths.iter())
        .map(|path| {
            let shared = paths.iter().filter(|p| stem(p) == stem(path)).count() > 1;
            let whole = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let base = if shared { whole } else { stem(path) };
            let mut name = base.clone();
            for k in 2.. {
                if names.insert(name.clone()) {
                    break;
                }
                name = format!("{base}-{k}");
            }
            Input { path: path.clone(), name }
        })
        .collect())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    path.is_file() && extension.is_some_and(|e| PICTURES.contains(&e.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_stems_keep_their_extension() {
        let names = |typed: &[&str]| -> Vec<String> {
            let typed: Vec<String> = typed.iter().map(|s| s.to_string()).collect();
            expand(&typed).unwrap().into_iter().map(|i| i.name).collect()
        };
        assert_eq!(names(&["a/cat.png", "b/dog.png"]), ["cat", "dog"]);
        assert_eq!(names(&["a/cat.png", "a/cat.jpg"]), ["cat.png", "cat.jpg"]);
        assert_eq!(names(&["a/cat.png", "b/cat.png", "a/cat.png"]), ["cat.png", "cat.png-2"]);
    }
}
