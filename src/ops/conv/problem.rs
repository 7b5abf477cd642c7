//! The description of one convolution that all CPU algorithms take.

use crate::tensor::Shape;
use std::ops::Range;

/// Winograd pays for its transforms from this many output pixels per item and input channels on.
/// The batch size is left out on purpose: the choice, and so the rounding of an image, must not
/// depend on it.
const WINOGRAD_PIXELS: usize = 128;
const WINOGRAD_CHANNELS: usize = 16;

/// Where a convolution adds zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// On every side: `kernel / 2` for an odd kernel, 1 for 4x4.
    #[default]
    Around,
    /// One row below and one column to the right of an even image, for stride 2: the down-sampling
    /// of the latent encoders.
    After,
}

impl Padding {
    /// Zeros before the first pixel.
    pub(super) fn before(self, kernel: usize) -> usize {
        if self == Padding::Around { (kernel - 1) / 2 } else { 0 }
    }
}

/// Order in which the weight (cout, kernel, kernel, cin) is read.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WeightOrder {
    /// As stored.
    Forward,
    /// Flipped in space, input and output channels exchanged: the data gradient.
    Transposed,
}

/// How the input's pixels lie on the grid that the kernel moves over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// Next to each other.
    Dense,
    /// With a row and a column of zeros after each: the data gradient of stride 2.
    Zeros,
    /// Each pixel fills 2x2 grid points: nearest-neighbour doubling.
    Repeat,
}

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Batch items.
    pub n: usize,
    /// Input rows, columns and channels as stored.
    pub input: (usize, usize, usize),
    /// Output rows, columns and channels.
    pub output: (usize, usize, usize),
    /// Kernel size: 1, 3, 4 or 5.
    pub kernel: usize,
    /// Grid points from one output pixel to the next.
    pub stride: usize,
    /// How the input's pixels lie on the grid.
    pub spread: Spread,
    /// Zeros before the first row and column. The output size determines the zeros after the last.
    pub pad: usize,
}

/// `out = conv(x, weight) + bias + addend`. With `addend_in_out`, `out` holds the addend
/// beforehand.
pub struct DirectConv<'a> {
    /// Sizes.
    pub geometry: Geometry,
    /// Input (n, rows, columns, channels).
    pub x: &'a [f32],
    /// Weights (cout, kernel, kernel, cin) as the forward convolution has them.
    pub weight: &'a [f32],
    /// The weight's input channels that x has, or in the data gradient the output.
    pub channels: Range<usize>,
    /// How to read the weights.
    pub order: WeightOrder,
    /// One value per output channel.
    pub bias: Option<&'a [f32]>,
    /// One value per batch item and output channel.
    pub item_bias: Option<&'a [f32]>,
    /// Same shape as the output.
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

/// Floating-point operations of a convolution with output shape `pixels`: two per multiply-add.
pub(super) fn multiply_adds(pixels: Shape, weight: Shape) -> u64 {
    2 * (pixels.n * pixels.h * pixels.w) as u64 * weight.numel() as u64
}
