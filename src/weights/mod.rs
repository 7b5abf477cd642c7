//! Weight files: safetensors (memory-mapped) and PyTorch zip archives, read as data.

mod fingerprint;
mod pickle;
mod pt;
mod safe;

pub(crate) use fingerprint::hexadecimal;
pub use safe::{write_safetensors, write_safetensors_with};

use crate::error::{Error, Result};
use crate::graph::{Dtype, Shape};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A tensor as a file describes it, row-major.
#[derive(Clone, Debug)]
pub struct FileTensor {
    /// Storage type; integer buffers that no model needs have none.
    pub dtype: Option<Dtype>,
    /// Extents as PyTorch has them.
    pub shape: Vec<usize>,
    /// First byte in the file's data.
    offset: usize,
}

/// An open weight file.
pub struct Checkpoint {
    path: PathBuf,
    data: Data,
    /// Every tensor by name.
    pub tensors: BTreeMap<String, FileTensor>,
    /// Text that came with the file.
    pub metadata: HashMap<String, String>,
}

enum Data {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(map) => map,
            Data::Owned(bytes) => bytes,
        }
    }

    /// Gives the pages of what has been read back: the file would stay in memory beside the copy of its weights.
    fn release(&self, from: usize, bytes: usize) {
        #[cfg(unix)]
        if let Data::Mapped(map) = self {
            // SAFETY: the map is private and never written: a page that is dropped is read from the file again.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, bytes) };
        }
    }
}

impl Checkpoint {
    /// Opens `.safetensors`, or a `.pt`, `.pth`, `.bin`, `.ckpt` zip archive.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Err(Error::Weights { path: path.into(), reason: "the file is empty".into() });
        }
        // SAFETY: the map is read only; a file changed by another program while it is read gives wrong numbers, not
        // undefined behaviour in this one, as every value read is a valid f32, f16 or bf16.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        let mut checkpoint = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => safe::open(path, Data::Mapped(map))?,
            _ if map.starts_with(b"PK\x03\x04") => pt::open(path, &map)?,
            _ => {
                return Err(Error::Weights {
                    path: path.into(),
                    reason:
                        "neither a .safetensors file nor a PyTorch zip archive (.pt); files written by PyTorch before \
                             version 1.6 have to be saved again"
                            .into(),
                });
            }
        };
        checkpoint.strip_prefixes();
        Ok(checkpoint)
    }

    /// A safetensors file that is in memory already; `name` stands for its path in messages.
    pub fn of_bytes(name: &str, bytes: &[u8]) -> Result<Checkpoint> {
        safe::open(Path::new(name), Data::Owned(bytes.to_vec()))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops what wraps a bare state dict in files that users have: a common `ema.` or `model.` prefix, and the two
    /// schedule buffers that deepinv adds on saving.
    fn strip_prefixes(&mut self) {
        for prefix in ["ema.", "state_dict.", "model.", "module.", "text_model."] {
            if !self.tensors.is_empty() && self.tensors.keys().all(|k| k.starts_with(prefix)) {
                let tensors = std::mem::take(&mut self.tensors);
                self.tensors = tensors.into_iter().map(|(k, t)| (k[prefix.len()..].to_string(), t)).collect();
            }
        }
        self.rename_old_attention();
        for extra in ["sqrt_1m_alphas_cumprod", "sqrt_alphas_cumprod"] {
            self.tensors.remove(extra);
        }
    }

    /// Old files of autoencoders call the layers of their attention otherwise.
    fn rename_old_attention(&mut self) {
        const NAMES: [(&str, &str); 4] =
            [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
        let is_old = |name: &String| name.contains(".mid_block.attentions.0.query.");
        if self.tensors.keys().any(is_old) {
            let tensors = std::mem::take(&mut self.tensors);
            let rename = |name: String| NAMES.iter().fold(name, |n, (old, new)| n.replace(old, new));
            self.tensors = tensors.into_iter().map(|(k, t)| (rename(k), t)).collect();
        }
    }

    /// An error about this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Weights { path: self.path.clone(), reason: reason.into() }
    }

    /// Parameters in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Values of `name` in file order as f32. NaN and infinity are refused.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.error(format!("tensor {name} is missing")))?;
        let Some(dtype) = tensor.dtype else {
            return Err(self.error(format!("tensor {name} does not hold f32, f16 or bf16 values")));
        };
        let count: usize = tensor.shape.iter().product();
        let bytes = &self.data.bytes()[tensor.offset..][..count * dtype.bytes()];
        let values: Vec<f32> = match dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::Bf16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        };
        self.data.release(tensor.offset, count * dtype.bytes());
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => {
                Err(self.error(format!("tensor {name} holds {} at position {i}; the file is damaged", values[i])))
            }
            None => Ok(values),
        }
    }

    /// The first `limit` bytes of a tensor, or all that it has.
    fn head(&self, tensor: &FileTensor, limit: usize) -> Result<&[u8]> {
        let bytes = tensor.shape.iter().product::<usize>() * tensor.dtype.map_or(1, Dtype::bytes);
        Ok(&self.data.bytes()[tensor.offset..][..bytes.min(limit)])
    }

    /// Values of `name` in the layout of the graph: (out, in, k, k) becomes (out, k, k, in).
    fn values_as(&self, name: &str, shape: Shape) -> Result<Vec<f32>> {
        let expected: &[usize] = match shape {
            Shape { n: 1, h: 1, w: 1, c } => &[c],
            Shape { n, h: 1, w: 1, c } => &[n, c],
            Shape { n, h, w, c } => &[n, c, h, w],
        };
        let tensor = self.tensors.get(name).ok_or_else(|| self.error(format!("tensor {name} is missing")))?;
        // 1x1 convolutions and linear layers are stored with or without their unit dimensions.
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

struct WeightsId(u64);

impl Default for WeightsId {
    fn default() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        WeightsId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

/// The files of a model, and what comes before the names of their tensors in the graph.
#[derive(Default)]
pub struct WeightFiles(Vec<(String, Checkpoint)>);

impl WeightFiles {
    /// The file that holds the weight `name`, and its name there.
    fn file<'a>(&self, name: &'a str) -> Option<(&Checkpoint, &'a str)> {
        let holds = |(prefix, file): &'_ (String, Checkpoint)| {
            name.strip_prefix(prefix.as_str()).is_some_and(|n| file.tensors.contains_key(n))
        };
        let (prefix, file) = self.0.iter().find(|p| holds(p))?;
        Some((file, &name[prefix.len()..]))
    }

    /// True if a file holds the weight.
    pub fn hold(&self, name: &str) -> bool {
        self.file(name).is_some()
    }

    /// The weight `name` in the layout of the graph, read now; none if no file holds it.
    pub fn values(&self, name: &str, shape: Shape) -> Option<Result<Vec<f32>>> {
        self.file(name).map(|(file, name)| file.values_as(name, shape))
    }
}

/// The weights of a model in the layout of the graph, read when first asked for and shared by all programs.
#[derive(Default)]
pub struct Weights {
    id: WeightsId,
    parts: Arc<WeightFiles>,
    loaded: Mutex<HashMap<String, Arc<Vec<f32>>>>,
}

impl Weights {
    /// Weights out of a file.
    pub fn new(checkpoint: Checkpoint) -> Weights {
        Weights::of_parts(vec![(String::new(), checkpoint)], [])
    }

    /// Weights out of the files of several networks, told apart by what comes before the names of their tensors; and values in the
    /// layout of the graph.
    pub fn of_parts(parts: Vec<(String, Checkpoint)>, values: impl IntoIterator<Item = (String, Vec<f32>)>) -> Weights {
        Weights { parts: Arc::new(WeightFiles(parts)), ..Weights::from_values(values) }
    }

    /// No weights at all, for graphs that have none.
    pub fn none() -> Weights {
        Weights::default()
    }

    /// Weights given in the layout of the graph, for tests and for programs that make their own.
    pub fn from_values(values: impl IntoIterator<Item = (String, Vec<f32>)>) -> Weights {
        let loaded = values.into_iter().map(|(k, v)| (k, Arc::new(v))).collect();
        Weights { loaded: Mutex::new(loaded), ..Weights::default() }
    }

    /// A weight that was given and not read from a file.
    pub fn given(&self, name: &str) -> Option<Arc<Vec<f32>>> {
        let loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        loaded.get(name).cloned()
    }

    /// Puts `values`, in the layout of the graph, in place of a weight that was given or read.
    pub fn replace(&mut self, name: &str, values: Vec<f32>) {
        let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
        loaded.insert(name.to_string(), Arc::new(values));
        self.id = WeightsId::default();
    }

    /// Tells these weights from all others of the process.
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// Weight `name` with extent `shape`, for a device that keeps its own copy: nothing stays on the host.
    pub fn read(&self, name: &str, shape: Shape) -> Result<Arc<Vec<f32>>> {
        match self.parts.values(name, shape) {
            Some(values) => Ok(Arc::new(values?)),
            None => self.get(name, shape),
        }
    }

    /// The files, to read weights again and again without keeping them.
    pub fn files(&self) -> Arc<WeightFiles> {
        self.parts.clone()
    }

    /// Weight `name` with extent `shape` (see [`Shape`]), kept for all that ask.
    pub fn get(&self, name: &str, shape: Shape) -> Result<Arc<Vec<f32>>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(values) = loaded.get(name) {
            if values.len() != shape.numel() {
                return Err(Error::Invalid(format!("weight {name} has {} values, not {shape}", values.len())));
            }
            return Ok(values.clone());
        }
        let Some(values) = self.parts.values(name, shape) else {
            return Err(match self.parts.0.first() {
                Some((_, file)) => file.error(format!("tensor {name} is missing")),
                None => Error::Invalid(format!("weight {name} was not given")),
            });
        };
        let values = Arc::new(values?);
        loaded.insert(name.to_string(), values.clone());
        Ok(values)
    }
}
