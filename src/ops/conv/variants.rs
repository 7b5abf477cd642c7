//! The kernel variants of convolutions and of their data gradients.

use super::launch::CudaConv;
use super::problem::Spread;
use crate::launch::{Operand, Recorder};
use crate::ops::variants::{Variant, Variants, always};
use crate::tensor::Dtype;

/// The variants. Tensor-core kernels read operands of one type whose channels are whole 16-byte
/// vectors; `simt` is plain f32 arithmetic.
pub(in crate::ops) static VARIANTS: Variants<CudaConv> = Variants {
    op: "conv",
    all: &[
        Variant {
            name: "wgmma_256",
            // A gated tile of 256 pixels would need more registers than a thread has.
            takes: |c, r| c.gated.is_none() && c.is_for_wgmma(r),
            pays: |c, r| c.fills_tiles(256) && c.fills_chip(r, 256),
            record: |c, r| c.record_wgmma(r, 256),
        },
        Variant {
            name: "wgmma_128",
            takes: CudaConv::is_for_wgmma,
            pays: |c, _| c.fills_tiles(128),
            record: |c, r| c.record_wgmma(r, 128),
        },
        Variant {
            name: "mma_128",
            takes: CudaConv::is_for_mma,
            pays: |c, r| 4 * c.tiles(128) >= 3 * r.chip.multiprocessors,
            record: |c, r| c.record_mma(r, 128),
        },
        Variant { name: "mma_64", takes: CudaConv::is_for_mma, pays: always, record: |c, r| c.record_mma(r, 64) },
        Variant {
            name: "image",
            takes: CudaConv::is_for_image,
            pays: |c, _| c.is_of_image(),
            record: |c, r| c.record_image(r),
        },
        Variant { name: "few", takes: CudaConv::is_for_few, pays: always, record: |c, r| c.record_few(r) },
        Variant {
            name: "mma_pooled",
            takes: |c, _| c.is_doubled_gradient(),
            pays: always,
            record: |c, r| c.record_pooled(r),
        },
        Variant { name: "simt", takes: |c, _| !c.is_doubled_gradient(), pays: always, record: |c, r| c.record_simt(r) },
    ],
};

impl CudaConv {
    /// Records the best kernels that take the operands.
    pub fn record(&self, r: &mut Recorder<'_>) {
        r.record_best(&VARIANTS, self);
    }

    /// The gradient with respect to an image that the forward convolution doubled.
    fn is_doubled_gradient(&self) -> bool {
        self.gradient && matches!(self.spread, Spread::Repeat)
    }

    fn is_whole(&self, channels: &[usize]) -> bool {
        channels.iter().all(|c| c % (16 / self.weight.dtype.bytes()) == 0)
    }

    /// Whether tensor cores may compute products of the weight's type.
    fn may_use_tensor_cores(&self, r: &Recorder<'_>) -> bool {
        self.weight.dtype != Dtype::F32 || r.tf32
    }

    fn has_weights_type(&self, operands: &[Option<Operand>]) -> bool {
        operands.iter().flatten().all(|o| o.dtype == self.weight.dtype)
    }

    /// Whether x and `second` can be read in vectors by tensor-core kernels, and the addend is
    /// stored as the result is.
    fn reads_vectors(&self, r: &Recorder<'_>) -> bool {
        self.may_use_tensor_cores(r)
            && self.has_weights_type(&[Some(self.x), self.second, self.bias, self.item_bias])
            && self.addend.is_none_or(|a| a.dtype == self.y.dtype)
            && self.is_whole(&[self.x.shape.c, self.second_channels()])
    }

    /// Whether weights and results can be accessed in vectors too.
    fn accesses_vectors(&self, r: &Recorder<'_>) -> bool {
        self.reads_vectors(r)
            && self.y.dtype == self.weight.dtype
            && self.is_whole(&[self.y.shape.c, self.weight.shape.c, self.first_channel])
    }

    fn is_for_wgmma(&self, r: &Recorder<'_>) -> bool {
        r.chip.wgmma && self.accesses_vectors(r) && self.is_known_to_wgmma()
    }

    fn is_for_mma(&self, r: &Recorder<'_>) -> bool {
        self.accesses_vectors(r) && !self.is_doubled_gradient()
    }

    /// The kernel gathers the values under the filter one by one.
    fn is_for_image(&self, r: &Recorder<'_>) -> bool {
        self.may_use_tensor_cores(r)
            && self.has_weights_type(&[Some(self.y), self.addend, self.bias, self.item_bias])
            && self.is_whole(&[self.y.shape.c])
            && self.second.is_none()
            && self.gated.is_none()
            && !self.is_doubled_gradient()
    }

    /// Whether x has few channels that are not whole vectors or not of the weight's type, such as
    /// an RGB image.
    fn is_of_image(&self) -> bool {
        const MOST: usize = 16;
        let gathered = !self.is_whole(&[self.x.shape.c]) || self.x.dtype != self.weight.dtype;
        gathered && self.x.shape.c <= MOST
    }

    /// Results with any number of channels, in the weight's type or f32: the image side of a
    /// network.
    fn is_for_few(&self, r: &Recorder<'_>) -> bool {
        self.reads_vectors(r)
            && self.item_bias.is_none()
            && self.gated.is_none()
            && !self.silu
            && [self.weight.dtype, Dtype::F32].contains(&self.y.dtype)
            && (self.gradient || self.is_whole(&[self.weight.shape.c]))
            && !self.is_doubled_gradient()
    }
}
