//! Launches of kernels/conv/weight.cu.

use super::launch::{as_pixels, parts_with_work};
use crate::kernels;
use crate::launch::{Kernel, Operand, Place, Recorder};
use crate::ops::partial_sums;
use crate::ops::variants::{Variant, Variants, always};
use crate::tensor::Dtype;

/// The weight gradient of a convolution, as the kernels take it.
pub(in crate::ops) struct CudaWeightVjp {
    dy: Operand,
    x: Operand,
    addend: Option<Operand>,
    dw: Operand,
    kernel: usize,
    stride: usize,
    pad: usize,
}

/// The variants. Tensor-core kernels read operands of one type whose channels are whole 16-byte
/// vectors; `simt` is plain f32 arithmetic.
pub(in crate::ops) static WEIGHT_VARIANTS: Variants<CudaWeightVjp> = Variants {
    op: "conv_weight",
    all: &[
        Variant {
            name: "mma_128",
            takes: CudaWeightVjp::is_for_mma,
            // A multiprocessor has two large tiles in place of four small ones and so twice the
            // work in a slice, but it reads shared memory half as often for each product.
            pays: |c, r| 4 * c.split(r, c.mma(128)).turns <= 3 * c.split(r, c.mma(64)).turns,
            record: |c, r| c.record_mma(r, 128),
        },
        Variant { name: "mma_64", takes: CudaWeightVjp::is_for_mma, pays: always, record: |c, r| c.record_mma(r, 64) },
        Variant { name: "simt", takes: always, pays: always, record: |c, r| c.record_simt(r) },
    ],
};

/// Scratch for the parts of a sum in bytes.
const MOST_SCRATCH: usize = 64 << 20;
/// The least number of slices of a part.
const LEAST_SLICES: usize = 8;
/// What a block does before and after its slices takes as long as about this many slices.
const AROUND: usize = 8;

/// What the blocks of a kernel make.
#[derive(Clone, Copy)]
struct Blocks {
    /// Blocks of one part of the sum.
    tiles: usize,
    /// Pixels of a slice.
    slice: usize,
    /// Blocks on a multiprocessor at the same time.
    resident: usize,
}

/// How the sum is split.
struct Split {
    parts: usize,
    /// Slices of a part.
    slices: usize,
    /// Slices that the busiest multiprocessor takes one after the other, with [`AROUND`].
    turns: usize,
}

impl CudaWeightVjp {
    /// From a node with the inputs of `ConvWeightVjp`.
    pub fn new(r: &Recorder<'_>, kernel: usize, stride: usize, pad: usize) -> CudaWeightVjp {
        let (dy, x, addend, dw) = (r.inputs[0], r.inputs[1], r.inputs.get(2).copied(), r.outputs[0]);
        // The pixels of a 1x1 convolution have no neighbours.
        let [dy, x] = if kernel == 1 { [as_pixels(dy), as_pixels(x)] } else { [dy, x] };
        CudaWeightVjp { dy, x, addend, dw, kernel, stride, pad }
    }

    /// Records the best kernels that take the operands.
    pub fn record(&self, r: &mut Recorder<'_>) {
        r.record_best(&WEIGHT_VARIANTS, self);
    }

    fn is_for_mma(&self, r: &Recorder<'_>) -> bool {
        let vector = 16 / self.x.dtype.bytes();
        self.dy.dtype == self.x.dtype
            && (self.x.dtype != Dtype::F32 || r.tf32)
            && [self.dy.shape.c, self.x.shape.c].iter().all(|c| c % vector == 0)
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// The tensor-core kernel with tiles of `side` channels.
    fn mma(&self, side: usize) -> Blocks {
        let tiles = self.dy.shape.c.div_ceil(side) * self.x.shape.c.div_ceil(side) * self.taps();
        let resident = match (side, self.x.dtype) {
            (64, Dtype::F32) => 3,
            (64, _) => 4,
            _ => 2,
        };
        Blocks { tiles, slice: 64 / self.x.dtype.bytes(), resident }
    }

    /// Number of pixels of dy.
    fn pixels(&self) -> usize {
        self.dy.shape.numel() / self.dy.shape.c
    }

    /// The split for which the busiest multiprocessor has the least to do. Parts share no work, so
    /// only what a last, incomplete turn of the chip leaves idle tells them apart.
    fn split(&self, r: &Recorder<'_>, blocks: Blocks) -> Split {
        let slices = self.pixels().div_ceil(blocks.slice);
        let most = (MOST_SCRATCH / 4 / self.dw.shape.numel()).min(slices / LEAST_SLICES).clamp(1, 64);
        let at_once = blocks.resident * r.chip.multiprocessors;
        let of = |wanted: usize| {
            let parts = parts_with_work(slices, wanted);
            let slices = slices.div_ceil(parts);
            Split { parts, slices, turns: (blocks.tiles * parts).div_ceil(at_once) * (slices + AROUND) }
        };
        (1..=most).map(of).min_by_key(|split| split.turns).expect("one part is always possible")
    }

    /// Records a kernel with a grid for each part of the sum, and the launch that adds the parts
    /// up.
    fn record_parts(
        &self,
        r: &mut Recorder<'_>,
        kernel: Kernel<kernels::ConvWeightParams>,
        split: &Split,
        tiles: (usize, usize),
        (threads, shared): (usize, usize),
    ) {
        let (dy, x, parts) = (self.dy.shape, self.x.shape, split.parts);
        let partial = (parts > 1).then(|| r.scratch(parts * self.dw.shape.numel()));
        let params = kernels::ConvWeightParams {
            dw: if parts > 1 { Place::NONE } else { self.dw.into() },
            partial: partial.into(),
            dy: self.dy.into(),
            x: self.x.into(),
            addend: self.addend.filter(|_| parts == 1).into(),
            pixels: self.pixels(),
            yh: dy.h,
            yw: dy.w,
            co: dy.c,
            xh: x.h,
            xw: x.w,
            ci: x.c,
            kernel: self.kernel,
            stride: self.stride,
            pad: self.pad,
            splits: parts,
            slices: split.slices,
        };
        r.launch(kernel, [tiles.0, tiles.1, parts], threads, shared, params);
        if let Some(partial) = partial {
            partial_sums::record(r, partial, parts, (self.dw, self.addend), None);
        }
    }

    fn record_mma(&self, r: &mut Recorder<'_>, side: usize) {
        let blocks = self.mma(side);
        let kernel = Kernel::named(&format!("conv_weight_mma_{}_{side}x{side}", self.x.dtype.name()));
        let (split, tiles) = (self.split(r, blocks), (blocks.tiles / self.taps(), self.taps()));
        self.record_parts(r, kernel, &split, tiles, (128, 3 * 2 * side * 64));
    }

    fn record_simt(&self, r: &mut Recorder<'_>) {
        let tiles = (self.dy.shape.c.div_ceil(64), (self.taps() * self.x.shape.c).div_ceil(64));
        let split = self.split(r, Blocks { tiles: tiles.0 * tiles.1, slice: 16, resident: 2 });
        self.record_parts(r, kernels::CONV_WEIGHT_SIMT, &split, tiles, (256, 2 * 16 * 68 * 4));
    }
}
