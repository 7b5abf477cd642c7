//! Shape and storage of tensors.

/// Shape of a tensor, channels fastest in memory.
///
/// Weights use the same four letters: a convolution has (out, height, width, in), a linear layer
/// (out, 1, 1, in), a vector (1, 1, 1, c).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Batch items.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels, contiguous in memory.
    pub c: usize,
}

impl Shape {
    /// The shape (n, h, w, c).
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Self {
        Shape { n, h, w, c }
    }
    /// The shape of a vector of length `c`.
    pub const fn vector(c: usize) -> Self {
        Shape { n: 1, h: 1, w: 1, c }
    }
    /// The shape of one row of `c` values per batch item.
    pub const fn rows(n: usize, c: usize) -> Self {
        Shape { n, h: 1, w: 1, c }
    }
    /// Number of elements.
    pub const fn numel(&self) -> usize {
        self.n * self.item()
    }
    /// Number of elements of one batch item.
    pub const fn item(&self) -> usize {
        self.h * self.w * self.c
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, {}, {}, {})", self.n, self.h, self.w, self.c)
    }
}

/// A tensor in a model's files, with its shape in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightPart {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
}

/// Storage type of a tensor in memory. Arithmetic accumulates in f32 for every storage type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        if matches!(self, Dtype::F32) { 4 } else { 2 }
    }

    /// `f32`, `f16` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// Whether a tensor follows the storage type of the run. Activations and weights follow
/// `--precision`. Values that the sampler keeps (x_t, gradients at x_t, schedule, statistics,
/// norms) are always f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// The storage type of the run.
    Storage,
    /// Always f32.
    Single,
}
