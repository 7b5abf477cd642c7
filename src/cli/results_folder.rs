//! The folder of a run over a set of photos: `results.json` and `results.csv`.

use super::make_folder;
use crate::error::{Error, ErrorKind, Result, shown};
use crate::image::write_whole;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The folder of a run.
pub(super) struct ResultsFolder {
    pub path: PathBuf,
    /// The folders that this run has made for it, itself first.
    made: Vec<PathBuf>,
}

impl ResultsFolder {
    /// Makes the folder. Fails if it holds the results of an earlier run, unless they may be
    /// overwritten.
    pub fn open(path: &Path, overwrite: bool) -> Result<ResultsFolder> {
        let is_new = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = path.ancestors().take_while(is_new).map(Path::to_path_buf).collect();
        make_folder(path)?;
        if !overwrite && path.join("results.json").exists() {
            let reason = format!("{} holds results; give another --out, or --overwrite", shown(path));
            return Err(Error::Invalid(reason));
        }
        Ok(ResultsFolder { path: path.into(), made })
    }

    /// Writes both files, each whole.
    pub fn write(&self, results: &impl Serialize, table: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(results).map_err(|e| Error::Invalid(e.to_string()))?;
        write_whole(&self.path.join("results.json"), (text + "\n").as_bytes())?;
        write_whole(&self.path.join("results.csv"), table.as_bytes())
    }

    /// Removes the folder and those around it that this run has made, as far as they are empty.
    pub fn remove_if_empty(&self) {
        for folder in &self.made {
            // Fails, as it should, if the folder is not empty.
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// Ends a run that Ctrl-C has stopped before it had a result.
    pub fn stopped_before_the_first(&self) -> ExitCode {
        self.remove_if_empty();
        complain!("dmap: stopped before the first photo was restored; nothing is written");
        ExitCode::from(ErrorKind::Cancelled.exit_code())
    }
}

/// A text as a field of CSV: quotes inside a quoted field are doubled.
pub(super) fn csv_text(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A number as a field of CSV, empty if there is none.
pub(super) fn csv_number(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}
