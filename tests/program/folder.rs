//! A folder of a test, and runs of the program.

use dmap::image::Picture;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn dmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmap")).args(arguments).output().unwrap()
}

pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn string(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
    /// A smooth picture with an edge; its folder is made.
    pub fn picture(&self, name: &str, width: usize, height: usize) -> String {
        let value = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            ((x as f32 * 0.3).sin() + (y as f32 * 0.2).cos()) * 0.3 + if x > width / 2 { 0.3 } else { -0.3 }
        };
        let values = (0..width * height * 3).map(value).collect();
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        Picture { width, height, values }.write_png(&self.path(name)).unwrap();
        self.string(name)
    }
}
