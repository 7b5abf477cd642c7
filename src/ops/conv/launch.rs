//! Launches of the kernels in kernels/conv, except wgmma.cu.

use super::problem::Spread;
use crate::kernels;
use crate::launch::{Kernel, Operand, Place, Recorder};
use crate::ops::resample;
use crate::tensor::{Dtype, Shape};

/// A convolution or its data gradient, as the kernels in kernels/conv take it. In the data gradient
/// `x` is dy, `y` is dx, and `Spread::Repeat` means that the forward convolution doubled its input.
#[derive(Clone)]
pub(crate) struct CudaConv {
    pub x: Operand,
    /// An image whose channels follow those of x.
    pub second: Option<Operand>,
    pub weight: Operand,
    /// In the data gradient: the weight's input channel that belongs to the first channel of `y`.
    pub first_channel: usize,
    pub bias: Option<Operand>,
    pub item_bias: Option<Operand>,
    pub addend: Option<Operand>,
    pub y: Operand,
    /// GEGLU output with c channels: value * gelu(gate). `y` then has 2c channels, first the
    /// values, then the gates.
    pub gated: Option<Operand>,
    /// Applies SiLU to the output.
    pub silu: bool,
    pub kernel: usize,
    pub stride: usize,
    pub spread: Spread,
    pub pad: usize,
    pub gradient: bool,
}

/// Pipeline stages of a tile of `rows` x `columns`, and their bytes of shared memory: 64 bytes for
/// each row of both operands in each stage. There are four stages if two blocks of the largest tile
/// fit a multiprocessor, which reserves 1 KiB per block, and else three.
fn stages(r: &Recorder<'_>, rows: usize, columns: usize) -> (usize, usize) {
    let bytes = |sum: usize, stages: usize| stages * sum * 64;
    let stages = if r.chip.shared_bytes >= 2 * (bytes(256, 4) + 1024) { 4 } else { 3 };
    (stages, bytes(rows + columns, stages))
}

/// How a product is split into blocks. The last dimension of the grid counts the parts of the sum.
struct Tiling {
    kernel: Kernel<kernels::ConvParams>,
    grid: [usize; 3],
    shared: usize,
    stages: usize,
}

/// Number of parts when `slices` are split into at most `splits` parts of equal length. Parts are
/// rounded up, so without this the last ones could be empty.
pub(super) fn parts_with_work(slices: usize, splits: usize) -> usize {
    slices.div_ceil(slices.div_ceil(splits))
}

/// All pixels of a tensor as one row of one image.
pub(super) fn as_pixels(o: Operand) -> Operand {
    Operand { shape: Shape::new(1, 1, o.shape.numel() / o.shape.c, o.shape.c), ..o }
}

impl CudaConv {
    /// The matrix product of all pixels of x with a weight (out, 1, 1, in).
    pub fn product(x: Operand, weight: Operand, bias: Option<Operand>, y: Operand) -> CudaConv {
        CudaConv {
            x: as_pixels(x),
            second: None,
            weight,
            first_channel: 0,
            bias,
            item_bias: None,
            addend: None,
            y: as_pixels(y),
            gated: None,
            silu: false,
            kernel: 1,
            stride: 1,
            spread: Spread::Dense,
            pad: 0,
            gradient: false,
        }
    }

    /// Records the gradient with respect to the doubled image, then the sums of its 2x2 blocks.
    pub(super) fn record_pooled(&self, r: &mut Recorder<'_>) {
        let y = self.y.shape;
        let shape = Shape { h: 2 * y.h, w: 2 * y.w, ..y };
        let wide = r.scratch((shape.numel() * self.y.dtype.bytes()).div_ceil(4));
        let bytes = (shape.numel() * self.y.dtype.bytes()) as u64;
        let wide = Operand { dtype: self.y.dtype, shape, bytes, ..wide };
        CudaConv { y: wide, spread: Spread::Dense, ..self.clone() }.record(r);
        resample::record(r, kernels::POOL, wide, self.y, 1.0);
    }

    pub(super) fn second_channels(&self) -> usize {
        self.second.map_or(0, |s| s.shape.c)
    }

    fn shape(&self) -> kernels::ConvShape {
        let (x, y) = (self.x.shape, self.y.shape);
        kernels::ConvShape {
            n: x.n,
            xh: x.h,
            xw: x.w,
            ci: x.c,
            ci2: self.second_channels(),
            yh: y.h,
            yw: y.w,
            co: y.c,
            row: self.weight.shape.c,
            first: self.first_channel,
            kernel: self.kernel,
            stride: self.stride,
            // The numbers of kernels/conv/shape.cuh.
            spread: match self.spread {
                Spread::Dense => 1,
                Spread::Zeros => 2,
                Spread::Repeat => 3,
            },
        }
    }

    /// The parameters of a tensor-core kernel that computes the sum in one part and adds bias and
    /// addend.
    fn params(&self, stages: usize) -> kernels::ConvParams {
        kernels::ConvParams {
            y: self.y.into(),
            gated: Place::NONE,
            x: self.x.into(),
            second: self.second.into(),
            w: self.weight.into(),
            bias: self.bias.into(),
            item_bias: self.item_bias.into(),
            addend: self.addend.into(),
            partial: Place::NONE,
            shape: self.shape(),
            splits: 1,
            pad: self.pad,
            single: 0,
            silu: self.silu.into(),
            stages,
        }
    }

    /// Number of tiles of `size` pixels by `size` channels.
    pub(super) fn tiles(&self, size: usize) -> usize {
        let (rows, channels) = self.results();
        rows.div_ceil(size) * channels.div_ceil(size)
    }

    /// Tiles of `size` pixels by `size` channels. If the small ones do not fill the chip, the sum
    /// is split into parts.
    fn square_tiles(&self, r: &Recorder<'_>, size: usize) -> Tiling {
        let (rows, channels) = self.results();
        let slice = 64 / self.weight.dtype.bytes();
        let slices = self.x.shape.c.div_ceil(slice) + self.second_channels().div_ceil(slice);
        let slices = self.kernel * self.kernel * slices;
        let splits = match size {
            64 => (2 * r.chip.multiprocessors / self.tiles(64)).clamp(1, 16).min(slices.div_ceil(8)),
            _ => 1,
        };
        let splits = parts_with_work(slices, splits);
        let (stages, shared) = stages(r, size, size);
        let grid = [rows.div_ceil(size), channels.div_ceil(size), splits];
        let kernel = Kernel::named(&format!("{}_mma_{}_{size}x{size}", self.way(), self.y.dtype.name()));
        Tiling { kernel, grid, shared, stages }
    }

    /// Number of pixels and of channels of the output.
    pub(super) fn results(&self) -> (usize, usize) {
        (self.y.shape.numel() / self.y.shape.c, self.y.shape.c)
    }

    pub(super) fn way(&self) -> &'static str {
        if self.gradient { "conv_vjp" } else { "conv" }
    }

    pub(super) fn record_mma(&self, r: &mut Recorder<'_>, size: usize) {
        let tiling = self.square_tiles(r, size);
        let (rows, channels) = self.results();
        let splits = tiling.grid[2];
        let partial = (splits > 1).then(|| r.scratch(splits * rows * channels));
        let fused = |o: Option<Operand>| o.filter(|_| splits == 1);
        // Inside a tile, eight values and eight gates alternate.
        let gated = fused(self.gated).filter(|y| y.shape.c % 8 == 0);
        let params = kernels::ConvParams {
            gated: gated.into(),
            bias: fused(self.bias).into(),
            item_bias: fused(self.item_bias).into(),
            addend: fused(self.addend).into(),
            partial: partial.into(),
            splits,
            ..self.params(tiling.stages)
        };
        r.launch(tiling.kernel, tiling.grid, 128, tiling.shared, params);
        if let Some(partial) = partial {
            self.record_finish(r, partial, splits);
        }
        if gated.is_none() {
            self.record_gate(r);
        }
    }

    /// Adds up the parts of a sum, then bias, item bias and addend.
    pub(super) fn record_finish(&self, r: &mut Recorder<'_>, partial: Operand, splits: usize) {
        let (rows, channels) = self.results();
        let count = rows * channels;
        let params = kernels::ConvFinishParams {
            y: self.y.into(),
            bias: self.bias.into(),
            item_bias: self.item_bias.into(),
            addend: self.addend.into(),
            partial: partial.into(),
            count,
            item: self.y.shape.item(),
            co: channels,
            splits,
            silu: self.silu.into(),
        };
        r.each(kernels::CONV_FINISH, count / 4, 1, params);
    }

    /// Output with few channels in any number, stored in the weight's type or f32: the image side
    /// of a network.
    pub(super) fn record_few(&self, r: &mut Recorder<'_>) {
        let (rows, channels) = (self.y.shape.numel() / self.y.shape.c, self.y.shape.c);
        let (stages, shared) = stages(r, 128, 32);
        let params =
            kernels::ConvParams { single: usize::from(self.y.dtype == Dtype::F32), silu: 0, ..self.params(stages) };
        let kernel = Kernel::named(&format!("{}_mma_{}_few", self.way(), self.weight.dtype.name()));
        r.launch(kernel, [rows.div_ceil(128), channels.div_ceil(32), 1], 128, shared, params);
    }

    /// Input with few channels: the kernel gathers the values under the filter one by one.
    pub(super) fn record_image(&self, r: &mut Recorder<'_>) {
        let (rows, channels) = (self.y.shape.numel() / self.y.shape.c, self.y.shape.c);
        let params =
            kernels::ConvImageParams { conv: self.params(1), x_type: self.x.dtype, gradient: self.gradient.into() };
        let kernel = Kernel::named(&format!("conv_image_{}", self.weight.dtype.name()));
        r.launch(kernel, [rows.div_ceil(64), channels.div_ceil(64), 1], 128, 128 * 64, params);
    }

    pub(super) fn record_simt(&self, r: &mut Recorder<'_>) {
        let (rows, channels) = (self.y.shape.numel() / self.y.shape.c, self.y.shape.c);
        let params = kernels::ConvSimtParams {
            y: self.y.into(),
            x: self.x.into(),
            second: self.second.into(),
            w: self.weight.into(),
            bias: self.bias.into(),
            item_bias: self.item_bias.into(),
            addend: self.addend.into(),
            shape: self.shape(),
            gradient: self.gradient.into(),
            pad: self.pad,
            silu: self.silu.into(),
        };
        r.launch(kernels::CONV_SIMT, [rows.div_ceil(64), channels.div_ceil(64), 1], 256, 2 * 16 * 68 * 4, params);
        self.record_gate(r);
    }

    /// Records value * gelu(gate) as a separate launch.
    pub(super) fn record_gate(&self, r: &mut Recorder<'_>) {
        if let Some(y) = self.gated {
            let (pixels, c) = (y.shape.numel() / y.shape.c, y.shape.c);
            let params = kernels::GegluParams { y: y.into(), x: self.y.into(), pixels, channels: c };
            r.each(kernels::GEGLU, pixels * c.div_ceil(4), 1, params);
        }
    }
}
