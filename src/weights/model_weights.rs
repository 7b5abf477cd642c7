//! The weights of a model in the layout of its graph.

use super::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::tensor::{Shape, WeightPart};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// The files of a model, each with the prefix that its tensor names have in the graph.
#[derive(Default)]
pub struct WeightFiles(pub(super) Vec<(String, Arc<Checkpoint>)>);

impl WeightFiles {
    /// The file that holds the weight `name`, and the name in that file.
    fn file<'a>(&self, name: &'a str) -> Option<(&Checkpoint, &'a str)> {
        let holds = |(prefix, file): &'_ (String, Arc<Checkpoint>)| {
            name.strip_prefix(prefix.as_str()).is_some_and(|n| file.tensors.contains_key(n))
        };
        let (prefix, file) = self.0.iter().find(|p| holds(p))?;
        Some((file, &name[prefix.len()..]))
    }

    /// The extents of the weight `name` as its file has them; none if no file holds it.
    pub fn extents(&self, name: &str) -> Option<Vec<usize>> {
        let (file, name) = self.file(name)?;
        Some(file.tensors[name].shape.clone())
    }

    /// True if a file holds the weight `name`.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.file(name).is_some()
    }

    /// True if files hold all of these weights.
    pub fn hold(&self, parts: &[WeightPart]) -> bool {
        parts.iter().all(|p| self.holds(&p.name))
    }

    /// The values of several weights, concatenated in the layout of the graph and read from the
    /// files now. None if no file holds one of them.
    pub fn values(&self, parts: &[WeightPart]) -> Option<Result<Vec<f32>>> {
        let read = |p: &WeightPart| self.file(&p.name).map(|(file, name)| file.values_as(name, p.shape));
        let [first, rest @ ..] = parts else { return None };
        let mut values = read(first)?;
        for part in rest {
            let more = read(part)?;
            values = values.and_then(|values| Ok([values, more?].concat()));
        }
        Some(values)
    }
}

/// The weights of a model in the layout of the graph. They are read when first asked for, and all
/// programs share them.
#[derive(Default)]
pub struct Weights {
    /// Identity of these weights, never shared: a `Weak` of it shows whether they still exist.
    identity: Arc<()>,
    pub(super) files: Arc<WeightFiles>,
    pub(super) loaded: Mutex<HashMap<String, Arc<Vec<f32>>>>,
    /// Concatenated weights by name.
    joined: Mutex<HashMap<String, Arc<Vec<f32>>>>,
}

impl Weights {
    /// Weights from one file.
    pub fn new(checkpoint: Checkpoint) -> Weights {
        Weights::of_parts(vec![(String::new(), checkpoint)], [])
    }

    /// Weights from the files of several networks, each with the prefix of its tensor names, and
    /// further values in the layout of the graph.
    pub fn of_parts(parts: Vec<(String, Checkpoint)>, values: impl IntoIterator<Item = (String, Vec<f32>)>) -> Weights {
        let parts = parts.into_iter().map(|(prefix, file)| (prefix, Arc::new(file))).collect();
        Weights { files: Arc::new(WeightFiles(parts)), ..Weights::from_values(values) }
    }

    /// These weights and those of `files`, whose tensor names have the prefix `prefix` in the graph.
    pub fn with_part(self, prefix: &str, files: Vec<Checkpoint>) -> Weights {
        let more = files.into_iter().map(|file| (prefix.to_string(), Arc::new(file)));
        let files = WeightFiles(self.files.0.iter().cloned().chain(more).collect());
        Weights { files: Arc::new(files), loaded: self.loaded, ..Weights::default() }
    }

    /// No weights, for graphs that read none.
    pub fn none() -> Weights {
        Weights::default()
    }

    /// Weights given as values in the layout of the graph, for tests and for programs that make
    /// their own.
    pub fn from_values(values: impl IntoIterator<Item = (String, Vec<f32>)>) -> Weights {
        let loaded = values.into_iter().map(|(k, v)| (k, Arc::new(v))).collect();
        Weights { loaded: Mutex::new(loaded), ..Weights::default() }
    }

    /// The values of a weight in memory that was given or already read; it is not read from a file.
    pub fn given(&self, name: &str) -> Option<Arc<Vec<f32>>> {
        let loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        loaded.get(name).cloned()
    }

    /// Replaces a weight by `values`, in the layout of the graph.
    pub fn replace(&mut self, name: &str, values: Vec<f32>) {
        let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
        loaded.insert(name.to_string(), Arc::new(values));
        self.joined = Mutex::default();
        self.identity = Arc::default();
    }

    /// Identifies these weights in this process. It can be upgraded as long as they exist with the
    /// same values.
    pub(crate) fn identity(&self) -> Weak<()> {
        Arc::downgrade(&self.identity)
    }

    /// The values of several weights, concatenated, for a device that keeps its own copy: nothing
    /// stays in host memory.
    pub fn read(&self, parts: &[WeightPart]) -> Result<Arc<Vec<f32>>> {
        match (self.files.values(parts), parts) {
            (Some(values), _) => Ok(Arc::new(values?)),
            (None, [one]) => self.get(&one.name, one.shape),
            (None, _) => {
                let parts = parts.iter().map(|p| self.get(&p.name, p.shape)).collect::<Result<Vec<_>>>()?;
                Ok(Arc::new(parts.iter().flat_map(|p| p.iter().copied()).collect()))
            }
        }
    }

    /// The values of several weights, concatenated, and kept under `name` for later calls.
    pub(crate) fn get_parts(&self, name: &str, parts: &[WeightPart]) -> Result<Arc<Vec<f32>>> {
        if let [one] = parts {
            return self.get(&one.name, one.shape);
        }
        let mut joined = self.joined.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(values) = joined.get(name) {
            return Ok(values.clone());
        }
        let values = self.read(parts)?;
        joined.insert(name.to_string(), values.clone());
        Ok(values)
    }

    /// The files, for weights that are read again and again without being kept.
    pub fn files(&self) -> Arc<WeightFiles> {
        self.files.clone()
    }

    /// The weight `name` of shape `shape` (see [`Shape`]), kept for later calls.
    pub fn get(&self, name: &str, shape: Shape) -> Result<Arc<Vec<f32>>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(values) = loaded.get(name) {
            if values.len() != shape.numel() {
                return Err(Error::Invalid(format!("weight {name} has {} values, not {shape}", values.len())));
            }
            return Ok(values.clone());
        }
        let Some(values) = self.files.values(&[WeightPart { name: name.into(), shape }]) else {
            return Err(match self.files.0.first() {
                Some((_, file)) => file.error(format!("tensor {name} is missing")),
                None => Error::Invalid(format!("weight {name} was not given")),
            });
        };
        let values = Arc::new(values?);
        loaded.insert(name.to_string(), values.clone());
        Ok(values)
    }
}
