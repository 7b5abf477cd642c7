//! Launches of kernels/conv/wgmma.cu and kernels/conv/doubled_weights.cu.

use super::launch::{CudaConv, parts_with_work};
use super::problem::Spread;
use crate::kernels;
use crate::launch::{Kernel, Operand, Recorder, TensorMap};
use crate::tensor::{Dtype, Shape};

/// Channels of a tile; SLICE is the number of channels in one slice of the sum.
const COLUMNS: usize = 128;
const SLICE: usize = 64;

/// How a product is split into tiles of `pixels` pixels by [`COLUMNS`] channels.
struct GroupTiling {
    pixels: usize,
    /// Tiles across, down and along the channels.
    tiles: [usize; 3],
    /// Number of parts of the sum.
    splits: usize,
}

/// Items, rows, columns that the tiles cover. A 1x1 convolution takes all pixels as one row.
type Pixels = (usize, usize, usize);

impl CudaConv {
    fn is_doubled(&self) -> bool {
        matches!(self.spread, Spread::Repeat)
    }

    /// Whether all pixels of a tile have the same row and column parity: the convolution of a
    /// doubled image.
    fn is_by_parity(&self) -> bool {
        self.is_doubled() && !self.gradient
    }

    /// The pixels that the tiles cover: all output pixels, or the output pixels of one parity.
    fn tiled_pixels(&self) -> Pixels {
        let y = self.y.shape;
        match (self.kernel, self.is_by_parity()) {
            (1, _) => (1, 1, y.n * y.h * y.w),
            (_, true) => (y.n, y.h / 2, y.w / 2),
            _ => (y.n, y.h, y.w),
        }
    }

    /// Slices of the sum: x and `second` in slices of 64 channels, for the gradient of a doubled
    /// image once for each of four parities.
    fn slices(&self) -> usize {
        let slices = self.x.shape.c.div_ceil(SLICE) + self.second_channels().div_ceil(SLICE);
        if self.is_doubled() && self.gradient { 4 * slices } else { slices }
    }

    /// Whether the kernels know the form of the convolution. Operands are checked in variants.rs.
    pub(super) fn is_known_to_wgmma(&self) -> bool {
        let channels = self.y.shape.c;
        let is_known = match self.spread {
            // A tile of a 1x1 convolution may cover rows of several items.
            Spread::Dense => self.kernel == 3 || self.kernel == 1 && self.item_bias.is_none(),
            // A box of results must not contain pixels of two parities.
            Spread::Repeat => self.kernel == 3 && self.pad == 1 && (self.gradient || channels % SLICE == 0),
            Spread::Zeros => false,
        };
        // Values and gates are stored separately, 64 channels at a time.
        let has_whole_gates = self.gated.is_none_or(|y| y.shape.c % SLICE == 0);
        self.y.dtype != Dtype::F32 && self.stride == 1 && is_known && has_whole_gates
    }

    /// Tiles across, down and along the channels.
    fn group_tiles(&self, pixels: usize) -> [usize; 3] {
        let ((_, h, w), columns) = (self.tiled_pixels(), self.y.shape.c.div_ceil(COLUMNS));
        match self.kernel {
            1 => [w.div_ceil(pixels), 1, columns],
            _ => [w.div_ceil(8), h.div_ceil(pixels / 8), columns],
        }
    }

    /// Number of tiles of `pixels` pixels.
    fn count_of_tiles(&self, pixels: usize) -> usize {
        let parities = if self.is_by_parity() { 4 } else { 1 };
        self.tiled_pixels().0 * parities * self.group_tiles(pixels).iter().product::<usize>()
    }

    /// Whether the results fill 70 % of the tiles.
    pub(super) fn fills_tiles(&self, pixels: usize) -> bool {
        10 * self.y.shape.numel() >= 7 * self.count_of_tiles(pixels) * pixels * COLUMNS
    }

    /// Whether there are tiles for three quarters of the multiprocessors.
    pub(super) fn fills_chip(&self, r: &Recorder<'_>, pixels: usize) -> bool {
        4 * self.count_of_tiles(pixels) >= 3 * r.chip.multiprocessors
    }

    /// Tiles of 256 pixels have the sum in one part. With tiles of 128 pixels, the sum is split if
    /// there are fewer tiles than multiprocessors.
    fn group_tiling(&self, r: &Recorder<'_>, pixels: usize) -> GroupTiling {
        let slices = self.slices();
        let most = match (pixels, self.is_by_parity(), self.kernel) {
            (256, ..) | (_, true, _) => 1,
            // Splitting pays if each part has about nine stages: one slice of a 3x3 convolution has
            // nine taps.
            (_, _, 1) => slices.div_ceil(8),
            _ => slices,
        };
        let splits = (r.chip.multiprocessors / self.count_of_tiles(pixels)).clamp(1, 16).min(most);
        GroupTiling { pixels, tiles: self.group_tiles(pixels), splits: parts_with_work(slices, splits) }
    }

    pub(super) fn record_wgmma(&self, r: &mut Recorder<'_>, pixels: usize) {
        let (rows, channels) = self.results();
        let tiling = self.group_tiling(r, pixels);
        let splits = tiling.splits;
        let partial = (splits > 1).then(|| r.scratch(splits * rows * channels));
        self.launch_wgmma(r, &tiling, partial);
        if let Some(partial) = partial {
            self.record_finish(r, partial, splits);
            self.record_gate(r);
        }
    }

    /// Records the plain sums in f32, for operands in 16 bits with whole vectors.
    pub(crate) fn record_sums(&self, r: &mut Recorder<'_>) {
        let pixels = if self.fills_chip(r, 256) { 256 } else { 128 };
        self.launch_wgmma(r, &GroupTiling { pixels, tiles: self.group_tiles(pixels), splits: 1 }, Some(self.y));
    }

    /// Launches the kernel: the complete result goes to y, or with `partial` only the parts of the
    /// sum to `partial`.
    fn launch_wgmma(&self, r: &mut Recorder<'_>, tiling: &GroupTiling, partial: Option<Operand>) {
        let channels = self.y.shape.c;
        let &GroupTiling { pixels, tiles: [across, down, columns], splits } = tiling;
        let (n, h, w) = self.tiled_pixels();
        let weight = if self.is_doubled() { self.record_doubled_weights(r) } else { self.weight };
        let fused = |o: Option<Operand>| o.filter(|_| partial.is_none());
        let (addend, gated) = (fused(self.addend), fused(self.gated));
        let slices = self.slices();
        let count = n * if self.is_by_parity() { 4 } else { 1 } * across * down * columns * splits;
        let params = kernels::GroupConvParams {
            x: Some(self.map_of_source(self.x, pixels)),
            second: self.second.map(|o| self.map_of_source(o, pixels)),
            w: Some(self.map_of_weights(weight, gated.is_some())),
            addend: addend.map(|o| self.map_of_results(o, pixels)),
            y: fused(Some(self.y)).map(|o| self.map_of_results(o, pixels)),
            gated: gated.map(|o| self.map_of_results(o, pixels)),
            bias: fused(self.bias).into(),
            item_bias: fused(self.item_bias).into(),
            partial: partial.into(),
            n,
            yh: h,
            yw: w,
            co: channels,
            ci: self.x.shape.c,
            slices_of_x: self.x.shape.c.div_ceil(SLICE),
            slices,
            slices_per_part: slices.div_ceil(splits),
            across,
            down,
            columns,
            tiles: count,
            pad: self.pad,
            adds: addend.is_some().into(),
            silu: self.silu.into(),
        };
        let blocks = count.min(r.chip.multiprocessors);
        let (way, dtype, k) = (self.way(), self.weight.dtype.name(), self.kernel);
        let form = match self.spread {
            Spread::Repeat => "doubled".to_string(),
            _ if gated.is_some() => "gated".to_string(),
            _ => format!("{k}x{k}"),
        };
        let kernel = Kernel::named(&format!("{way}_wgmma_{dtype}_{pixels}x{COLUMNS}_{form}"));
        r.launch(kernel, [blocks, 1, 1], 384, self.shared_bytes(pixels), params);
    }

    /// Records the weights of the four convolutions, one for each output parity, that equal one
    /// convolution of a doubled image.
    fn record_doubled_weights(&self, r: &mut Recorder<'_>) -> Operand {
        let w = self.weight;
        let count = 16 * w.shape.n * w.shape.c;
        let place = r.scratch(count * w.dtype.bytes() / 4);
        let params = kernels::DoubledWeightsParams {
            y: place.into(),
            w: w.into(),
            co_row: w.shape.n * w.shape.c,
            row: w.shape.c,
        };
        let blocks = (w.shape.n * w.shape.c * w.dtype.bytes() / 16).div_ceil(256);
        let kernel = Kernel::named(&format!("conv_doubled_weights_{}", w.dtype.name()));
        r.launch(kernel, [blocks, 1, 1], 256, 0, params);
        Operand { dtype: w.dtype, ..place }
    }

    /// Bytes of shared memory; the layout is GroupConv's in the kernel.
    fn shared_bytes(&self, pixels: usize) -> usize {
        const ROW: usize = 128;
        let around = self.kernel - 1;
        let patch = ((8 + around) * (pixels / 8 + around) * ROW).next_multiple_of(1024);
        let (stages, patches) = match (self.kernel, pixels) {
            (1, 256) => (3, 3),
            (1, _) => (5, 5),
            (_, 256) => (4, 2),
            _ => (8, 2),
        };
        let barriers = 8 * (2 * patches + 2 * stages + 2);
        patches * patch + stages * COLUMNS * ROW + 2 * pixels * ROW + barriers
    }

    /// Boxes are input patches with their border. In the gradient of a doubled image a box holds
    /// the pixels of one parity.
    fn map_of_source(&self, o: Operand, pixels: usize) -> TensorMap {
        let s = o.shape;
        let (width, height) = (8 + self.kernel - 1, pixels / 8 + self.kernel - 1);
        let (extents, extent_of_box) = match (self.kernel, self.is_doubled() && self.gradient) {
            (1, _) => ([s.c, s.n * s.h * s.w, 1, 1, 1], [SLICE, pixels, 1, 1, 1]),
            (_, true) => (by_parity(s), [SLICE, width, 1, height, 1]),
            _ => ([s.c, s.w, s.h, s.n, 1], [SLICE, width, height, 1, 1]),
        };
        let strides = strides_of(extents);
        TensorMap { operand: o, first: 0, extents, strides, extent_of_box }
    }

    /// Boxes hold 64 channels of a tile's pixels.
    fn map_of_results(&self, o: Operand, pixels: usize) -> TensorMap {
        let c = o.shape.c;
        let (n, h, w) = self.tiled_pixels();
        let (extents, extent_of_box) = match (self.kernel, self.is_by_parity()) {
            (1, _) => ([c, w, 1, 1, 1], [SLICE, pixels, 1, 1, 1]),
            (_, true) => (by_parity(o.shape), [SLICE, 8, 1, pixels / 8, 1]),
            _ => ([c, w, 1, h, n], [SLICE, 8, 1, pixels / 8, 1]),
        };
        TensorMap { operand: o, first: 0, extents, strides: strides_of(extents), extent_of_box }
    }

    /// Forward, a box holds one slice of one tap's input channels for [`COLUMNS`] output channels.
    /// In the gradient it holds 64 of the gradient's channels for one slice of the summed channels.
    /// In a gated layer, eight values and eight gates alternate. A doubled image has separate
    /// weights for each parity.
    fn map_of_weights(&self, weight: Operand, has_gates: bool) -> TensorMap {
        let (out, row) = (self.weight.shape.n, self.weight.shape.c);
        let (taps, parities) = if self.is_doubled() { (4, 4) } else { (self.kernel * self.kernel, 1) };
        let first = if self.gradient { self.first_channel } else { 0 };
        let (extents, strides, extent_of_box) = match (self.gradient, has_gates) {
            (true, _) => {
                ([self.y.shape.c, taps, out, parities, 1], [row, taps * row, out * taps * row], [SLICE, 1, SLICE, 1, 1])
            }
            (_, true) => ([row, 8, 2, out / 16, 1], [row, out / 2 * row, 8 * row], [SLICE, 8, 2, COLUMNS / 16, 1]),
            _ => ([row, taps, out, parities, 1], [row, taps * row, out * taps * row], [SLICE, 1, COLUMNS, 1, 1]),
        };
        let strides = [strides[0], strides[1], strides[2], parities * taps * out * row];
        TensorMap { operand: weight, first, extents, strides, extent_of_box }
    }
}

/// Extents of a doubled image: channels, columns, row parity, rows, items. A pixel in an even
/// column and its right neighbour count as one pixel with twice the channels.
fn by_parity(s: Shape) -> [usize; 5] {
    [2 * s.c, s.w / 2, 2, s.h / 2, s.n]
}

/// Strides of a contiguous tensor.
fn strides_of(extents: [usize; 5]) -> [usize; 4] {
    let mut next = 1;
    [0, 1, 2, 3].map(|d| {
        next *= extents[d];
        next
    })
}
