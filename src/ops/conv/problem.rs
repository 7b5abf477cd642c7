//! One convolution, as every solver takes it.

use crate::tensor::Shape;
use std::ops::Range;

/// Winograd pays for its transforms from this many output pixels per item and input channels on. The batch size is left out on
/// purpose: the choice, and so the rounding of an image, must not depend on it.
const WINOGRAD_PIXELS: usize = 128;
const WINOGRAD_CHANNELS: usize = 16;

/// Where a convolution adds zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// `kernel / 2` on every side.
    #[default]
    Around,
    /// One row below and one column to the right of an even image, for stride 2: the down-sampling of the latent encoders.
    After,
}

impl Padding {
    /// Zeros before the first pixel.
    pub(super) fn before(self, kernel: usize) -> usize {
        if self == Padding::Around { kernel / 2 } else { 0 }
    }
}

/// Which value of the weight (cout, kernel, kernel, cin) multiplies what.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WeightOrder {
    /// As stored.
    Forward,
    /// Flipped in space, input and output channels exchanged: the data gradient.
    Transposed,
}

/// How the input's pixels stand on the grid that the kernel moves over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// As they are.
    Dense,
    /// With a row and a column of zeros between: the data gradient of stride 2.
    Zeros,
    /// Each four times: nearest-neighbour doubling.
    Repeat,
}

/// Extents of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Batch items.
    pub n: usize,
    /// Input rows, columns, channels as they lie in memory.
    pub input: (usize, usize, usize),
    /// Output rows, columns, channels.
    pub output: (usize, usize, usize),
    /// 1 or 3.
    pub kernel: usize,
    /// Output pixels are `stride` input pixels apart.
    pub stride: usize,
    /// How input pixels stand.
    pub spread: Spread,
    /// Zeros before the first row and column; after the last as many as the output asks for.
    pub pad: usize,
}

/// `out = conv(x, weight) + bias + addend`; where `addend_in_out`, out holds the addend.
pub struct DirectConv<'a> {
    /// Extents.
    pub geometry: Geometry,
    /// Input.
    pub x: &'a [f32],
    /// Weights (cout, kernel, kernel, cin) as the forward convolution has them.
    pub weight: &'a [f32],
    /// Which of their input channels x (or, for the data gradient, the output) has.
    pub channels: Range<usize>,
    /// How to read them.
    pub order: WeightOrder,
    /// One per output channel.
    pub bias: Option<&'a [f32]>,
    /// One row of output channels per batch item.
    pub item_bias: Option<&'a [f32]>,
    /// Same extent as the output.
    pub addend: Option<&'a [f32]>,
    /// The output already holds the addend.
    pub addend_in_out: bool,
}

impl Geometry {
    pub(super) fn winograd(&self) -> bool {
        let pixels = self.output.0 * self.output.1;
        self.kernel == 3 && self.stride == 1 && self.input.2 >= WINOGRAD_CHANNELS && pixels >= WINOGRAD_PIXELS
    }
}

/// Floating-point operations of a convolution that makes `pixels` with `weight`: two for each multiply-add.
pub(super) fn multiply_adds(pixels: Shape, weight: Shape) -> u64 {
    2 * (pixels.n * pixels.h * pixels.w) as u64 * weight.numel() as u64
}
