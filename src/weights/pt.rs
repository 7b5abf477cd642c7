//! PyTorch's zip archives (`.pt`, `.pth`, `.bin`): a restricted pickle of tensor descriptions and one stored file each.

use super::pickle::{PickledTensor, Value, read};
use super::{Checkpoint, Data, FileTensor};
use crate::error::{Error, Result};
use crate::graph::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::Path;

/// A pickle of tensor descriptions is small; a larger one is an attack or something else.
const LARGEST_PICKLE: u64 = 64 << 20;

pub(super) fn open(path: &Path, map: &[u8]) -> Result<Checkpoint> {
    parse(map)
        .map(|(data, tensors)| Checkpoint {
            path: path.into(),
            data: Data::Owned(data),
            tensors,
            metadata: HashMap::new(),
        })
        .map_err(|reason| Error::Weights { path: path.into(), reason })
}

fn parse(map: &[u8]) -> Result<(Vec<u8>, BTreeMap<String, FileTensor>), String> {
    let damaged = |e: zip::result::ZipError| format!("not a sound zip archive ({e}); download it again");
    let mut archive = zip::ZipArchive::new(Cursor::new(map)).map_err(damaged)?;
    let pickle_name = (archive.file_names().find(|n| n.ends_with("/data.pkl") || *n == "data.pkl"))
        .ok_or("a zip archive without data.pkl: not a PyTorch file")?
        .to_string();
    let folder = pickle_name.trim_end_matches("data.pkl").to_string();
    let mut file = archive.by_name(&pickle_name).map_err(damaged)?;
    if file.size() > LARGEST_PICKLE {
        return Err(format!("its pickle has {} MiB, far more than descriptions of tensors take", file.size() >> 20));
    }
    let mut pickle = Vec::new();
    file.read_to_end(&mut pickle).map_err(|e| format!("its pickle can't be read: {e}"))?;
    drop(file);
    let mut described = Vec::new();
    collect("", &read(&pickle)?, &mut described, 0)?;
    let mut data = Vec::new();
    let mut starts: HashMap<String, (usize, usize)> = HashMap::new();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in described {
        let key = format!("{folder}data/{}", tensor.key);
        if !starts.contains_key(&key) {
            let mut file = archive.by_name(&key).map_err(|e| format!("tensor {name}: no file {key} in it ({e})"))?;
            if file.size() > map.len() as u64 {
                return Err(format!("tensor {name}: its file claims to be larger than the archive"));
            }
            let start = data.len();
            file.read_to_end(&mut data).map_err(|e| format!("tensor {name} can't be read: {e}"))?;
            starts.insert(key.clone(), (start, data.len() - start));
        }
        let (start, length) = starts[&key];
        tensors.insert(name.clone(), located(&name, &tensor, start, length)?);
    }
    if tensors.is_empty() {
        return Err("it holds no tensors".into());
    }
    Ok((data, tensors))
}

/// Walks nested dicts; of a training checkpoint only the averaged or plain weights are taken.
fn collect(
    prefix: &str,
    value: &Value,
    out: &mut Vec<(String, std::rc::Rc<PickledTensor>)>,
    depth: usize,
) -> Result<(), String> {
    if depth > 8 {
        return Err("its dicts are nested too deep".into());
    }
    match value {
        Value::Tensor(t) => out.push((prefix.to_string(), t.clone())),
        Value::Dict(dict) => {
            let dict = dict.borrow();
            let named = |name: &str| dict.iter().find(|(k, v)| is(k, name) && matches!(v, Value::Dict(_)));
            if let Some((_, weights)) = ["ema", "state_dict", "model"].iter().find_map(|n| named(n)) {
                return collect("", weights, out, depth + 1);
            }
            for (key, value) in dict.iter() {
                if let Value::Str(key) = key {
                    let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
                    collect(&name, value, out, depth + 1)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn is(key: &Value, name: &str) -> bool {
    matches!(key, Value::Str(k) if &**k == name)
}

fn located(name: &str, t: &PickledTensor, start: usize, length: usize) -> Result<FileTensor, String> {
    let (dtype, width) = match t.storage.trim_start_matches("torch.") {
        "FloatStorage" => (Some(Dtype::F32), 4),
        "HalfStorage" => (Some(Dtype::F16), 2),
        "BFloat16Storage" => (Some(Dtype::Bf16), 2),
        "DoubleStorage" | "LongStorage" => (None, 8),
        "IntStorage" => (None, 4),
        "ShortStorage" => (None, 2),
        _ => (None, 1),
    };
    let mut step = 1;
    for (&n, &stride) in t.shape.iter().zip(&t.strides).rev() {
        if n > 1 && stride != step {
            return Err(format!("tensor {name} is stored with strides {:?}; save a contiguous copy", t.strides));
        }
        step = n.checked_mul(step).ok_or_else(|| format!("tensor {name} has an absurd shape {:?}", t.shape))?;
    }
    let end = t.offset.checked_add(step).and_then(|e| e.checked_mul(width));
    if t.shape.len() != t.strides.len() || end.is_none_or(|e| e > length) || t.elements.saturating_mul(width) > length {
        return Err(format!("tensor {name} of shape {:?} is larger than its file of {length} bytes", t.shape));
    }
    Ok(FileTensor { dtype, shape: t.shape.clone(), offset: start + t.offset * width })
}
