//! The safetensors format: a header in JSON, read by the `safetensors` crate, and one span of bytes
//! per tensor.

use super::file_tensor::{Contents, FileTensor};
use super::number::Number;
use super::source::Source;
use crate::error::{Error, Result};
use crate::image::write_whole_with;
use half::f16;
use safetensors::tensor::{Metadata, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Limits on the length of the header in bytes and on its parts. No network exceeds them.
const LONGEST_HEADER: u64 = 16 << 20;
const MOST_MARKS: usize = 300_000;

/// True if the first bytes are those of a safetensors file, complete or truncated: 8 bytes with the
/// length of the header, the upper four of them zero, then JSON.
pub(super) fn is_likely(head: &[u8]) -> bool {
    header_length(head).is_some_and(|n| n < 1 << 32) && head.get(8) == Some(&b'{')
}

fn header_length(head: &[u8]) -> Option<u64> {
    head.first_chunk().map(|n| u64::from_le_bytes(*n))
}

pub(super) fn open(source: Source) -> Result<Contents, String> {
    let damaged = |what: String| format!("not a sound safetensors file ({what}); download or export it again");
    let length = source.head(8).ok().and_then(|h| header_length(&h));
    let length = length.ok_or_else(|| damaged("it ends within its header".into()))?;
    if length > LONGEST_HEADER {
        return Err(damaged(format!("its header claims {length} bytes")));
    }
    let header = source.read(8, length as usize).map_err(|_| damaged("it ends within its header".into()))?;
    if marks(&header) > MOST_MARKS {
        return Err("its header describes more tensors than any network has".into());
    }
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    let start = 8 + length;
    let mut tensors = header.tensors().into_iter().collect::<Vec<_>>();
    tensors.sort_by_key(|(_, t)| t.data_offsets);
    let mut end = 0;
    let mut contents = Contents::of(source);
    for (name, tensor) in tensors {
        let (from, to) = tensor.data_offsets;
        let bits = tensor.shape.iter().try_fold(tensor.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        if from != end || to < from || bits != (to - from).checked_mul(8) {
            return Err(damaged(format!("tensor {name} of shape {:?} lies at bytes {from} to {to}", tensor.shape)));
        }
        end = to;
        let placed = FileTensor::whole(number(tensor.dtype), tensor.shape.clone(), start + from as u64);
        contents.tensors.insert(name, placed);
    }
    let found = contents.sources[0].len() - start;
    if end as u64 != found {
        return Err(damaged(format!("its tensors take {end} bytes, the file has {found}")));
    }
    contents.metadata = header.metadata().clone().unwrap_or_default();
    Ok(contents)
}

/// Number of commas, colons and brackets outside of texts: it bounds the memory for the parsed
/// JSON.
fn marks(json: &[u8]) -> usize {
    let (mut marks, mut in_text, mut is_escaped) = (0, false, false);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => marks += 1,
            _ => {}
        }
    }
    marks
}

fn number(dtype: safetensors::Dtype) -> Number {
    use safetensors::Dtype::*;
    match dtype {
        F64 => Number::F64,
        F32 => Number::F32,
        F16 => Number::F16,
        BF16 => Number::Bf16,
        I64 => Number::I64,
        I32 => Number::I32,
        I16 => Number::I16,
        I8 => Number::I8,
        U64 => Number::U64,
        U32 => Number::U32,
        U16 => Number::U16,
        U8 => Number::U8,
        BOOL => Number::Bool,
        C64 => Number::Other("complex64", 8),
        _ => Number::Other("f8 or smaller", 1),
    }
}

/// Writes f32 tensors (name, extents, values) to a temporary file beside `path`, then renames it.
pub fn write_safetensors(path: &Path, tensors: &[(&str, Vec<usize>, &[f32])]) -> Result<()> {
    write_safetensors_with(path, tensors, &[])
}

/// Like [`write_safetensors`], with texts (key, value) in the file's metadata.
pub fn write_safetensors_with(
    path: &Path,
    tensors: &[(&str, Vec<usize>, &[f32])],
    metadata: &[(&str, String)],
) -> Result<()> {
    let all = tensors.iter().map(|(name, shape, values)| (*name, shape, bytemuck::cast_slice(values)));
    write_bytes(path, safetensors::Dtype::F32, all, metadata)
}

/// Like [`write_safetensors_with`], rounded to f16.
pub fn write_safetensors_f16(
    path: &Path,
    tensors: &[(&str, Vec<usize>, &[f32])],
    metadata: &[(&str, String)],
) -> Result<()> {
    let rounded = |values: &[f32]| values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
    let values: Vec<Vec<f16>> = tensors.iter().map(|t| rounded(t.2)).collect();
    let all = tensors.iter().zip(&values).map(|((name, shape, _), v)| (*name, shape, bytemuck::cast_slice(v)));
    write_bytes(path, safetensors::Dtype::F16, all, metadata)
}

fn write_bytes<'a>(
    path: &Path,
    dtype: safetensors::Dtype,
    tensors: impl Iterator<Item = (&'a str, &'a Vec<usize>, &'a [u8])>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let views = tensors.map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes);
        view.map(|v| (name.to_string(), v)).map_err(|e| Error::Invalid(format!("tensor {name}: {e}")))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    // Straight to the file: the state of a training can be as large as half of the memory.
    let written = write_whole_with(path, |partial| safetensors::serialize_to_file(views, metadata, partial));
    written.map_err(|e| match e {
        safetensors::SafeTensorError::IoError(e) => Error::io(path)(e),
        other => Error::Invalid(format!("{}: {other}", path.display())),
    })
}
