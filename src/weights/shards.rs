//! The weight files of one network in a model's folder: one file, or shards with an index.

use super::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum size of an index in bytes; a larger one names more tensors than any network has.
const LARGEST_INDEX: u64 = 4 << 20;

/// Opens the weights called `stem` in `folder`: `.safetensors` or `.bin`, in one file or in shards.
/// f32 files win over f16 files. For `model` the `.bin` file is called `pytorch_model`, as in
/// transformers.
pub fn open_part(folder: &Path, stem: &str) -> Result<Vec<Checkpoint>> {
    let pickled = if stem == "model" { "pytorch_model" } else { stem };
    for variant in ["", ".fp16"] {
        for (stem, extension) in [(stem, "safetensors"), (pickled, "bin")] {
            let single = folder.join(format!("{stem}{variant}.{extension}"));
            if single.exists() {
                return Ok(vec![Checkpoint::open(&single)?]);
            }
            let index = folder.join(format!("{stem}.{extension}.index{variant}.json"));
            if index.exists() {
                return open_shards(folder, &index);
            }
        }
    }
    let reason = format!("no weights: {stem}.safetensors or {pickled}.bin is expected here, whole or in shards");
    Err(Error::Weights { path: folder.into(), reason })
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the shards that an index names. Each must be a file directly in `folder`.
fn open_shards(folder: &Path, index: &Path) -> Result<Vec<Checkpoint>> {
    let refuse = |reason: String| Error::Weights { path: index.into(), reason };
    let is_file = index.metadata().map_err(Error::io(index))?.is_file();
    if !is_file {
        return Err(refuse("it is not a regular file; an index of shards is expected".into()));
    }
    let mut text = String::new();
    let file = std::fs::File::open(index).map_err(Error::io(index))?;
    file.take(LARGEST_INDEX + 1).read_to_string(&mut text).map_err(Error::io(index))?;
    if text.len() as u64 > LARGEST_INDEX {
        return Err(refuse(format!("it has more than {} MiB, too much for an index of shards", LARGEST_INDEX >> 20)));
    }
    let read: Index = serde_json::from_str(&text).map_err(|e| {
        refuse(format!("it is not JSON with a weight_map of tensors to files ({e}); download it again"))
    })?;
    let names: BTreeSet<&String> = read.weight_map.values().collect();
    if names.is_empty() {
        return Err(refuse("its weight_map names no file; download it again".into()));
    }
    let path = |name: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        match Path::new(name).file_name().is_some_and(|f| f == name) && path.is_file() {
            true => Ok(path),
            false => Err(refuse(format!("it names {name}, which is not in this folder; download it"))),
        }
    };
    names.into_iter().map(|name| Checkpoint::open(&path(name)?)).collect()
}
