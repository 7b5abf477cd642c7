//! The safetensors format, by the `safetensors` crate, which checks header, offsets and extents.

use super::{Checkpoint, Data, FileTensor};
use crate::error::{Error, Result};
use crate::graph::Dtype;
use safetensors::{SafeTensors, tensor::TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

pub(super) fn open(path: &Path, data: Data) -> Result<Checkpoint> {
    let map = data.bytes();
    let refuse = |e: safetensors::SafeTensorError| Error::Weights {
        path: path.into(),
        reason: format!("not a sound safetensors file ({e}); download or export it again"),
    };
    let (_, header) = SafeTensors::read_metadata(map).map_err(refuse)?;
    let parsed = SafeTensors::deserialize(map).map_err(refuse)?;
    let start = map.as_ptr() as usize;
    let tensors: BTreeMap<String, FileTensor> = parsed
        .iter()
        .map(|(name, view)| {
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => Some(Dtype::F32),
                safetensors::Dtype::F16 => Some(Dtype::F16),
                safetensors::Dtype::BF16 => Some(Dtype::Bf16),
                _ => None,
            };
            let offset = view.data().as_ptr() as usize - start;
            (name.to_string(), FileTensor { dtype, shape: view.shape().to_vec(), offset })
        })
        .collect();
    let metadata: HashMap<String, String> = header.metadata().clone().unwrap_or_default();
    Ok(Checkpoint { path: path.into(), data, tensors, metadata })
}

/// Writes f32 tensors (name, extents, values) to a temporary name beside `path`, then renames it.
pub fn write_safetensors(path: &Path, tensors: &[(&str, Vec<usize>, &[f32])]) -> Result<()> {
    write_safetensors_with(path, tensors, &[])
}

/// As [`write_safetensors`], with text (key, value) in the file's metadata.
pub fn write_safetensors_with(
    path: &Path,
    tensors: &[(&str, Vec<usize>, &[f32])],
    metadata: &[(&str, String)],
) -> Result<()> {
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytemuck::cast_slice(values));
        view.map(|v| (name.to_string(), v)).map_err(|e| Error::Invalid(format!("tensor {name}: {e}")))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let bytes = safetensors::serialize(views, metadata).map_err(|e| Error::Invalid(e.to_string()))?;
    crate::image::write_whole(path, &bytes)
}
