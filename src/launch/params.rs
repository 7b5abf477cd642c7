//! The parameter structs of kernels, as bytes and as structs with named fields.

use super::operand::{Access, Either, Place, TensorMap};
use crate::tensor::Dtype;
use std::marker::PhantomData;

/// A pointer in a parameter struct.
#[derive(Clone, Copy, Debug)]
pub struct Pointer {
    /// Byte offset of the pointer in the struct.
    pub at: usize,
    /// Address of the memory that the pointer points into.
    pub base: u64,
    /// Size of that memory in bytes.
    pub bytes: u64,
    /// The kernel's access to that memory.
    pub access: Access,
}

/// The by-value parameter struct of a kernel as bytes. Order and alignment of the fields are as in
/// the .cu file.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    /// The pointers in the struct.
    pub pointers: Vec<Pointer>,
    /// The tensor maps in the struct, with their byte offsets. Each starts with a pointer until the
    /// driver encodes it.
    pub maps: Vec<(usize, TensorMap)>,
}

/// A struct in the kernel files. `build.rs` generates the implementations from these files.
pub trait Fields {
    /// Alignment in bytes.
    const ALIGNMENT: usize;

    /// Appends the fields to `params`.
    fn put(self, params: Params) -> Params;
}

/// A struct that kernels take as their parameter.
pub trait Parameters: Fields {
    /// The kernels with this parameter struct: (file, name).
    const KERNELS: &'static [(&'static str, &'static str)];
}

/// A kernel with the parameters `P`.
#[derive(Clone, Copy)]
pub struct Kernel<P> {
    pub(super) file: &'static str,
    pub(super) name: &'static str,
    parameters: PhantomData<P>,
}

impl<P> Kernel<P> {
    pub(crate) const fn new(file: &'static str, name: &'static str) -> Kernel<P> {
        Kernel { file, name, parameters: PhantomData }
    }
}

impl<P: Parameters> Kernel<P> {
    /// The kernel `name` among the kernels with the parameters `P`. It serves families of kernels
    /// whose names are composed of types and sizes.
    ///
    /// # Panics
    ///
    /// If there is no such kernel.
    pub(crate) fn named(name: &str) -> Kernel<P> {
        let found = P::KERNELS.iter().find(|(_, known)| *known == name);
        let &(file, name) = found.unwrap_or_else(|| {
            panic!("there is no kernel {name} with the parameters {}", std::any::type_name::<P>());
        });
        Kernel::new(file, name)
    }
}

impl Params {
    /// An empty struct.
    pub fn new() -> Params {
        Params::default()
    }

    fn align(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }

    fn push(mut self, bytes: &[u8]) -> Params {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pointer(mut self, place: Place, access: Access) -> Params {
        self.align(8);
        let Some(o) = place.operand else { return self.i64(0) };
        self.pointers.push(Pointer { at: self.bytes.len(), base: o.address, bytes: o.bytes, access });
        self.push(&(o.address + (place.first * o.dtype.bytes()) as u64).to_le_bytes())
    }

    /// `const T*`
    pub fn read(self, place: impl Into<Place>) -> Params {
        self.pointer(place.into(), Access::Read)
    }
    /// `T*`
    pub fn write(self, place: impl Into<Place>) -> Params {
        self.pointer(place.into(), Access::Write)
    }
    /// `Either<T>`
    pub fn either(self, either: Either) -> Params {
        match either {
            Either::Read(place) => self.read(place),
            Either::Write(place) => self.write(place),
        }
    }
    /// `View`
    pub fn view(self, place: Place) -> Params {
        self.view_either(Either::Read(place))
    }
    /// `ViewOut`
    pub fn view_out(self, place: Place) -> Params {
        self.view_either(Either::Write(place))
    }
    /// `ViewEither`: a pointer and the number of its storage type; the number is 0 without a
    /// tensor.
    pub fn view_either(self, either: Either) -> Params {
        let (Either::Read(place) | Either::Write(place)) = either;
        let params = self.either(either);
        match place.operand {
            Some(operand) => params.dtype(operand.dtype),
            None => params.i64(0),
        }
    }
    /// `TensorMap`, which may be absent.
    pub fn map(self, map: Option<TensorMap>) -> Params {
        self.boxes(map, Access::Read)
    }
    /// `TensorMapOut`, which may be absent.
    pub fn map_out(self, map: Option<TensorMap>) -> Params {
        self.boxes(map, Access::Write)
    }
    fn boxes(mut self, map: Option<TensorMap>, access: Access) -> Params {
        self.align(64);
        let (at, end) = (self.bytes.len(), self.bytes.len() + TensorMap::BYTES);
        if let Some(map) = map {
            self.maps.push((at, map));
            self = self.pointer(map.operand.at(map.first), access);
        }
        self.bytes.resize(end, 0);
        self
    }
    /// `i64`
    pub fn i64(self, v: usize) -> Params {
        self.push(&(v as i64).to_le_bytes())
    }
    /// `StorageType`: the number of a storage type in the kernels, an `i64`.
    pub fn dtype(self, dtype: Dtype) -> Params {
        self.i64(match dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
        })
    }
    /// `int`
    pub fn i32(self, v: usize) -> Params {
        self.push(&(v as i32).to_le_bytes())
    }
    /// `float`
    pub fn f32(self, v: f32) -> Params {
        self.push(&v.to_le_bytes())
    }
    /// A nested struct, aligned and padded to its alignment.
    pub fn structure<F: Fields>(mut self, fields: F) -> Params {
        self.align(F::ALIGNMENT);
        let mut params = fields.put(self);
        params.align(F::ALIGNMENT);
        params
    }
}
