//! A weight file: its tensors by name, and their values read piece by piece.

use super::file_tensor::{Contents, FileTensor};
use super::source::Source;
use super::{kinds, legacy, names, pt, safe};
use crate::error::{Error, Result};
use crate::tensor::Shape;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Bytes read from a file at a time: a multiple of every element size.
const PIECE: usize = 1 << 20;
/// Tensors may share storages. Together they may describe at most three times the file size plus
/// this many bytes.
const SHARED_FREE: u64 = 32 << 20;

/// An open weight file.
pub struct Checkpoint {
    path: PathBuf,
    sources: Vec<Source>,
    /// Every tensor by name.
    pub tensors: BTreeMap<String, FileTensor>,
    /// Text metadata of the file.
    pub metadata: HashMap<String, String>,
    /// Tables and counters of the training that the file holds beside the weights.
    bookkeeping: BTreeMap<String, FileTensor>,
}

impl Checkpoint {
    /// Opens a safetensors file or a file from `torch.save` (`.pt`, `.pth`, `.bin`, `.ckpt`); the
    /// content decides which. Dicts and name prefixes around the state dict are removed. If the
    /// file has averaged weights, they are taken.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let refuse = |reason: String| Error::Weights { path: path.into(), reason };
        let kind = path.metadata().map_err(Error::io(path))?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            return Err(refuse(format!("{what}; a regular file of weights is expected")));
        }
        let source = std::fs::File::open(path).and_then(Source::of_file).map_err(Error::io(path))?;
        let head = source.head(512).map_err(Error::io(path))?;
        let is_named_safe = path.extension().is_some_and(|e| e == "safetensors");
        let contents = if head.is_empty() {
            Err("the file is empty; download it again".into())
        } else if safe::is_likely(&head) {
            safe::open(source)
        } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            pt::open(source)
        } else if matches!(head[..], [0x80, 2..=5, ..]) {
            legacy::open(source)
        } else if let Some(kind) = kinds::foreign(&head) {
            Err(format!("neither safetensors nor a file of torch.save, but {kind}"))
        } else if is_named_safe {
            safe::open(source)
        } else {
            Err("neither safetensors nor a file of torch.save (.pt)".into())
        };
        let mut contents = contents.map_err(refuse)?;
        check(&contents).map_err(refuse)?;
        let (weights, bookkeeping) = names::clean(contents.tensors);
        contents.tensors = weights;
        Ok(Checkpoint { bookkeeping, ..Checkpoint::of_contents(path, contents) })
    }

    /// Opens a safetensors file in memory; `name` stands for its path in messages.
    pub fn of_bytes(name: &str, bytes: &[u8]) -> Result<Checkpoint> {
        let path = Path::new(name);
        let contents = safe::open(Source::Memory(bytes.to_vec()));
        Ok(Checkpoint::of_contents(path, contents.map_err(|reason| Error::Weights { path: path.into(), reason })?))
    }

    fn of_contents(path: &Path, contents: Contents) -> Checkpoint {
        let Contents { sources, tensors, metadata } = contents;
        Checkpoint { path: path.into(), sources, tensors, metadata, bookkeeping: BTreeMap::new() }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The network that the tensor names belong to, as a short phrase; none if it is unknown or an
    /// ADM UNet.
    pub fn kind(&self) -> Option<String> {
        kinds::network(&self.tensors)
    }

    /// True if it holds a ControlNet by the names of diffusers, whatever network that copies.
    pub fn is_control(&self) -> bool {
        self.tensors.contains_key("controlnet_mid_block.weight")
    }

    /// An error about this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Weights { path: self.path.clone(), reason: reason.into() }
    }

    /// Number of parameters in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|t| t.count()).sum()
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&FileTensor> {
        self.tensors.get(name).ok_or_else(|| self.error(format!("tensor {name} is missing")))
    }

    /// For weights: the values of `name` in row-major order as f32. Integers, NaN and infinity are
    /// errors.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        if !tensor.number.is_float() {
            let found = tensor.number.name();
            return Err(self.error(format!("tensor {name} holds {found} values; f64, f32, f16 or bf16 are expected")));
        }
        self.read(name, tensor)
    }

    /// For inputs: the values of `name` in row-major order as f32. They may be floating point or
    /// integers (timesteps, labels, tokens). NaN, infinity and whole numbers that f32 can't hold
    /// are errors.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name, self.tensor(name)?)
    }

    /// A table of the training, such as `betas`, stored beside the weights; none if the file has no
    /// table of this name.
    pub fn table(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.bookkeeping.get(name).map(|table| self.read(name, table)).transpose()
    }

    fn read(&self, name: &str, tensor: &FileTensor) -> Result<Vec<f32>> {
        let (source, width) = (&self.sources[tensor.source], tensor.number.bytes());
        let shortened = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.error(format!(
                "tensor {name} can't be read any more: the file has become shorter since it was opened; start again"
            )),
            _ => Error::io(&self.path)(e),
        };
        let decode = |bytes: &[u8], values: &mut Vec<f32>| {
            tensor.number.decode(bytes, values).map_err(|what| self.error(format!("tensor {name} holds {what}")))
        };
        let count = tensor.count();
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|e| self.error(format!("tensor {name} with {count} values: {e}")))?;
        if let Some(strides) = &tensor.strides {
            let last: usize = tensor.shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum();
            let span = source.read(tensor.offset, (last + 1) * width).map_err(shortened)?;
            decode(&gather(&span, width, &tensor.shape, strides), &mut values)?;
            return Ok(values);
        }
        let mut piece = vec![0; PIECE.min(count * width)];
        for from in (0..count * width).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(count * width - from)];
            source.read_into(tensor.offset + from as u64, piece).map_err(shortened)?;
            decode(piece, &mut values)?;
        }
        Ok(values)
    }

    /// The first bytes of a tensor's storage, at most `most`.
    pub(super) fn head(&self, tensor: &FileTensor, most: usize) -> Result<Vec<u8>> {
        let source = &self.sources[tensor.source];
        let bytes = (tensor.count() * tensor.number.bytes()) as u64;
        let length = bytes.min(most as u64).min(source.len().saturating_sub(tensor.offset));
        source.read(tensor.offset, length as usize).map_err(Error::io(&self.path))
    }

    /// The values of `name` in the layout of the graph: a convolution's (out, in, k, k) becomes
    /// (out, k, k, in).
    pub(crate) fn values_as(&self, name: &str, shape: Shape) -> Result<Vec<f32>> {
        let expected: &[usize] = match shape {
            Shape { n: 1, h: 1, w: 1, c } => &[c],
            Shape { n, h: 1, w: 1, c } => &[n, c],
            Shape { n, h, w, c } => &[n, c, h, w],
        };
        let tensor = self.tensor(name)?;
        // Files store 1x1 convolutions and linear layers with or without dimensions of size 1.
        let mut found = tensor.shape.clone();
        while found.len() > expected.len() && found.last() == Some(&1) {
            found.pop();
        }
        let alike = found == expected || (expected.len() == 1 && found == [1, expected[0]]);
        if !alike {
            let reason = format!("tensor {name} should have shape {expected:?} but has {:?}", tensor.shape);
            return Err(self.error(reason));
        }
        let values = self.values(name)?;
        let taps = shape.h * shape.w;
        if taps == 1 {
            return Ok(values);
        }
        let mut out = vec![0.0; values.len()];
        for o in 0..shape.n {
            for i in 0..shape.c {
                for t in 0..taps {
                    out[(o * taps + t) * shape.c + i] = values[(o * shape.c + i) * taps + t];
                }
            }
        }
        Ok(out)
    }
}

/// The inverse of the change of layout in [`Checkpoint::values_as`]: a convolution's (out, k, k, in)
/// becomes (out, in, k, k).
pub(crate) fn in_file_order(values: &[f32], shape: Shape) -> Vec<f32> {
    let taps = shape.h * shape.w;
    let mut out = vec![0.0; values.len()];
    for o in 0..shape.n {
        for t in 0..taps {
            for i in 0..shape.c {
                out[(o * shape.c + i) * taps + t] = values[(o * taps + t) * shape.c + i];
            }
        }
    }
    out
}

/// Refuses descriptions that would take far more memory than the file.
fn check(contents: &Contents) -> Result<(), String> {
    names::check(&contents.tensors)?;
    let bytes = |t: &FileTensor| (t.count() as u64).saturating_mul(t.number.bytes() as u64);
    let described = contents.tensors.values().map(bytes).fold(0, u64::saturating_add);
    let file = contents.sources[0].len();
    match described > file.saturating_mul(3).saturating_add(SHARED_FREE) {
        true => Err(format!(
            "its tensors describe {} MiB, but the file has only {} MiB; save it again without compression",
            described >> 20,
            file >> 20
        )),
        false => Ok(()),
    }
}

/// Copies the elements of a strided tensor to row-major order.
fn gather(span: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(shape.iter().product::<usize>() * width);
    let mut index = vec![0; shape.len()];
    loop {
        let at: usize = index.iter().zip(strides).map(|(i, s)| i * s * width).sum();
        gathered.extend_from_slice(&span[at..at + width]);
        // Advances the index, last dimension first.
        let Some(k) = (0..shape.len()).rev().find(|&k| index[k] + 1 < shape[k]) else { return gathered };
        index[k] += 1;
        index[k + 1..].fill(0);
    }
}
