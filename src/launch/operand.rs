//! Tensors in device memory, and places in them.

use crate::tensor::{Dtype, Shape};

/// A tensor in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// First byte.
    pub address: u64,
    /// Bytes of all elements.
    pub bytes: u64,
    /// Storage type.
    pub dtype: Dtype,
    /// Extent.
    pub shape: Shape,
}

impl Operand {
    /// The tensor from element `first` on.
    pub fn at(&self, first: usize) -> Place {
        Place { operand: Some(*self), first }
    }
}

/// A place in a tensor that a kernel is given; or none, a null pointer.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub(super) operand: Option<Operand>,
    pub(super) first: usize,
}

impl Place {
    /// No tensor.
    pub const NONE: Place = Place { operand: None, first: 0 };
}

impl From<Operand> for Place {
    fn from(operand: Operand) -> Place {
        operand.at(0)
    }
}

impl From<Option<Operand>> for Place {
    fn from(operand: Option<Operand>) -> Place {
        Place { operand, first: 0 }
    }
}

/// A place that some of the kernels with the same parameters write and the others read: `Either<T>` and `ViewEither` of the
/// kernels.
#[derive(Clone, Copy, Debug)]
pub enum Either {
    /// This kernel reads it.
    Read(Place),
    /// This kernel writes it.
    Write(Place),
}

impl Either {
    /// No tensor.
    pub const NONE: Either = Either::Read(Place::NONE);
}

/// What a kernel does with memory that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it, in part or in full.
    Write,
}

/// A tensor of 16-bit values as the copy engine sees it (kernels/include/bulk.cuh): boxes of it go to and from shared memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    /// What it lies in.
    pub operand: Operand,
    /// Its first element there.
    pub first: usize,
    /// Extents, the fastest first; 1 where there are fewer than five.
    pub extents: [usize; 5],
    /// Elements from one to the next of the second extent and later ones.
    pub strides: [usize; 4],
    /// What one copy takes of each extent; 64 of the first.
    pub extent_of_box: [usize; 5],
}

impl TensorMap {
    /// Bytes of a map in a parameter struct.
    pub const BYTES: usize = 128;

    /// Bytes between elements of the second extent and later ones.
    pub fn stride_bytes(&self) -> [u64; 4] {
        self.strides.map(|s| (s * self.operand.dtype.bytes()) as u64)
    }

    /// Bytes from the first element to the end of the last.
    pub fn span(&self) -> u64 {
        let steps = self.extents[1..].iter().zip(self.stride_bytes()).map(|(&n, stride)| (n - 1) as u64 * stride);
        steps.sum::<u64>() + (self.extents[0] * self.operand.dtype.bytes()) as u64
    }
}
