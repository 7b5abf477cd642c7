//! The table: rows, the folder their inputs live in, and the run that checks them.

use dmap::image::Picture;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// One run of the program.
pub struct Row {
    /// What the input is, for the report.
    pub input: &'static str,
    /// The arguments of `dmap`.
    pub arguments: Vec<String>,
    /// The expected exit code.
    pub code: i32,
    /// A phrase that stdout or stderr must contain.
    pub phrase: &'static str,
}

/// A row out of plain strings.
pub fn row(
    input: &'static str,
    arguments: impl IntoIterator<Item = impl AsRef<str>>,
    code: i32,
    phrase: &'static str,
) -> Row {
    Row { input, arguments: arguments.into_iter().map(|a| a.as_ref().to_string()).collect(), code, phrase }
}

/// Runs the program.
pub fn dmap(arguments: &[impl AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmap")).args(arguments).output().unwrap()
}

/// All that a run printed.
pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Runs every row and reports all that differ. A run that fails says so in lines that start with
/// `dmap: `, and never panics.
pub fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for row in rows {
        let out = dmap(&row.arguments);
        let said = text(&out);
        let plain = out.status.code() == Some(0) || String::from_utf8_lossy(&out.stderr).contains("dmap: ");
        if out.status.code() != Some(row.code) || !said.contains(row.phrase) || said.contains("panicked") || !plain {
            let found = out.status.code();
            wrong.push(format!(
                "{}: expected {} with \"{}\", found {found:?}:\n{said}",
                row.input, row.code, row.phrase
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// A folder for the inputs of one test.
pub struct Folder(tempfile::TempDir);

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
    /// Writes a smooth RGB picture with an edge; its path.
    pub fn picture(&self, name: &str, width: usize, height: usize) -> String {
        picture(width, height).write_png(&self.path(name)).unwrap();
        self.string(name)
    }
}

/// A smooth picture with an edge, different in its three channels.
pub fn picture(width: usize, height: usize) -> Picture {
    let value = |i: usize| {
        let (x, y) = (i / 3 % width, i / 3 / width);
        let wave = (x as f32 * 0.3 + (i % 3) as f32).sin() + (y as f32 * 0.2).cos();
        wave * 0.3 + if x > width / 2 { 0.3 } else { -0.3 }
    };
    Picture { width, height, values: (0..width * height * 3).map(value).collect() }
}

/// The JSON in a file.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
