//! Tensors in device memory, and positions in them.

use crate::tensor::{Dtype, Shape};

/// A tensor in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Address of the first byte.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Storage type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Shape,
}

impl Operand {
    /// The position of element `first`.
    pub fn at(&self, first: usize) -> Place {
        Place { operand: Some(*self), first }
    }
}

/// A position in a tensor, passed to a kernel as a pointer; without a tensor, a null pointer.
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

/// A position that some kernels with the same parameter struct write and others read: `Either<T>`
/// and `ViewEither` in the kernels.
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

/// The access of a kernel to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it, in part or in full.
    Write,
}

/// A tensor of 16-bit values for the copy engine (kernels/include/bulk.cuh), which copies boxes of
/// it to and from shared memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    /// The tensor that holds the values.
    pub operand: Operand,
    /// Its first element in the operand.
    pub first: usize,
    /// Extents, the fastest first; 1 in unused dimensions.
    pub extents: [usize; 5],
    /// Strides of the second and later dimensions, in elements.
    pub strides: [usize; 4],
    /// Extents of the box that one copy takes; 64 in the first dimension.
    pub extent_of_box: [usize; 5],
}

impl TensorMap {
    /// Size of an encoded map in a parameter struct, in bytes.
    pub const BYTES: usize = 128;

    /// Strides of the second and later dimensions, in bytes.
    pub fn stride_bytes(&self) -> [u64; 4] {
        self.strides.map(|s| (s * self.operand.dtype.bytes()) as u64)
    }

    /// Bytes from the first element to the end of the last.
    pub fn span(&self) -> u64 {
        let steps = self.extents[1..].iter().zip(self.stride_bytes()).map(|(&n, stride)| (n - 1) as u64 * stride);
        steps.sum::<u64>() + (self.extents[0] * self.operand.dtype.bytes()) as u64
    }
}
