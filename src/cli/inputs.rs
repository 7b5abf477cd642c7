//! Expands files, folders and patterns to a list of pictures, each with its output folder.

use crate::error::{Error, Result, shown};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

const PICTURES: [&str; 11] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "pnm", "safetensors"];

/// One input and the name of its output folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Name of its folder below `--out`: the file's stem, or its whole name if two inputs share a
    /// stem. It contains no path separators and no control characters.
    pub name: String,
}

/// Expands the inputs that the user typed. Folders give their pictures in order of name.
pub fn expand(typed: &[PathBuf]) -> Result<Vec<Input>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in typed {
        let pattern = path.to_str().filter(|t| t.contains(['*', '?', '[']));
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
            let mut inside: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_picture(p)).collect();
            inside.sort();
            if inside.is_empty() {
                return Err(Error::Invalid(format!("{}: no pictures in this folder", shown(path))));
            }
            paths.append(&mut inside);
        } else if let Some(pattern) = pattern.filter(|_| !path.exists()) {
            let found = glob::glob(pattern).map(|found| found.flatten().collect::<Vec<_>>()).unwrap_or_default();
            // A name with brackets that matches nothing is a missing file.
            paths.extend(if found.is_empty() { vec![path.clone()] } else { found });
        } else {
            // A missing file is reported later, at its turn, so that the other inputs are restored.
            paths.push(path.clone());
        }
    }
    let mut seen = HashSet::new();
    paths.retain(|p| seen.insert(p.clone()));
    let stem = |p: &Path| folder_name(&p.file_stem().unwrap_or_default().to_string_lossy());
    let mut sharing: HashMap<String, usize> = HashMap::new();
    paths.iter().for_each(|p| *sharing.entry(stem(p)).or_default() += 1);
    let mut names = HashSet::new();
    let mut next: HashMap<String, usize> = HashMap::new();
    Ok((paths.into_iter())
        .map(|path| {
            let base = match sharing[&stem(&path)] {
                1 => stem(&path),
                _ => folder_name(&path.file_name().unwrap_or_default().to_string_lossy()),
            };
            let mut name = base.clone();
            while !names.insert(name.clone()) {
                let k = next.entry(base.clone()).or_insert(1);
                *k += 1;
                name = format!("{base}-{k}");
            }
            Input { path, name }
        })
        .collect())
}

/// A folder name that is safe to create and to print: it has no separators and no control
/// characters, and is not empty, `.` or `..`.
fn folder_name(stem: &str) -> String {
    let clean: String = stem.chars().map(|c| if c.is_control() || c == '/' || c == '\\' { '_' } else { c }).collect();
    match clean.trim_matches('.') {
        "" => format!("image{}", "_".repeat(clean.len())),
        _ => clean,
    }
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
            let typed: Vec<PathBuf> = typed.iter().map(PathBuf::from).collect();
            expand(&typed).unwrap().into_iter().map(|i| i.name).collect()
        };
        assert_eq!(names(&["a/cat.png", "b/dog.png"]), ["cat", "dog"]);
        assert_eq!(names(&["a/cat.png", "a/cat.jpg"]), ["cat.png", "cat.jpg"]);
        assert_eq!(names(&["a/cat.png", "b/cat.png", "a/cat.png"]), ["cat.png", "cat.png-2"]);
        assert_eq!(names(&["a/x.png", "b/x.png", "c/x.png-2.png"]), ["x.png", "x.png-2", "x.png-2-2"]);
    }

    #[test]
    fn no_name_leaves_its_folder_or_reaches_the_terminal() {
        let typed = ["...png", "..png", "a/...", "\u{1b}[31m.png", "b/..hidden.png"].map(PathBuf::from);
        let names: Vec<String> = expand(&typed).unwrap().into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["...png", "image_", "image___", "_[31m", "..hidden"]);
    }
}
