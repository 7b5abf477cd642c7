//! A tensor as a weight file describes it.

use super::number::Number;
use super::pickle_value::PickledTensor;
use super::source::Source;
use std::collections::{BTreeMap, HashMap};

/// A tensor as a file describes it.
#[derive(Clone, Debug)]
pub struct FileTensor {
    /// Type of the elements.
    pub number: Number,
    /// Extents in PyTorch's order.
    pub shape: Vec<usize>,
    /// Strides in elements; none if the tensor is row-major.
    pub(super) strides: Option<Vec<usize>>,
    /// Index of the source: the file, or a member of it that was inflated.
    pub(super) source: usize,
    /// Byte offset in the source.
    pub(super) offset: u64,
}

/// The result of a file format's reader.
pub(super) struct Contents {
    /// The file, then its inflated members.
    pub sources: Vec<Source>,
    pub tensors: BTreeMap<String, FileTensor>,
    pub metadata: HashMap<String, String>,
}

impl Contents {
    pub fn of(file: Source) -> Contents {
        Contents { sources: vec![file], tensors: BTreeMap::new(), metadata: HashMap::new() }
    }
}

impl FileTensor {
    /// A row-major tensor that starts at byte `offset` of the file.
    pub(super) fn whole(number: Number, shape: Vec<usize>, offset: u64) -> FileTensor {
        FileTensor { number, shape, strides: None, source: 0, offset }
    }

    /// A tensor in a storage of a given size from `start` on, in bytes. An error if it exceeds the
    /// storage.
    pub(super) fn rebuilt(
        name: &str,
        t: &PickledTensor,
        source: usize,
        start: u64,
        bytes: u64,
    ) -> Result<FileTensor, String> {
        let (number, shape) = (t.storage.number, &t.shape);
        let too_large = || format!("tensor {name} of shape {shape:?} is larger than its storage of {bytes} bytes");
        let width = number.bytes() as u64;
        let count = shape.iter().try_fold(1_u64, |c, &n| c.checked_mul(n as u64)).ok_or_else(too_large)?;
        let (mut last, mut step, mut is_row_major) = (0_u64, 1_u64, true);
        for (&n, &stride) in shape.iter().zip(&t.strides).rev().filter(|_| count > 0) {
            is_row_major &= n == 1 || stride as u64 == step;
            let reach = (n as u64 - 1).checked_mul(stride as u64);
            last = reach.and_then(|r| r.checked_add(last)).ok_or_else(too_large)?;
            step *= n as u64;
        }
        let first = (t.storage.first as u64).checked_add(t.offset as u64);
        let end = first.and_then(|f| f.checked_add(if count > 0 { last + 1 } else { 0 }));
        let is_inside = |elements: u64| elements.checked_mul(width).is_some_and(|b| b <= bytes);
        let held = (t.storage.first as u64).saturating_add(t.storage.elements as u64);
        let fits = shape.len() == t.strides.len() && is_inside(count) && is_inside(held) && end.is_some_and(is_inside);
        let first = first.filter(|_| fits).ok_or_else(too_large)?;
        let strides = (!is_row_major).then(|| t.strides.clone());
        Ok(FileTensor { number, shape: shape.clone(), strides, source, offset: start + first * width })
    }

    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}
