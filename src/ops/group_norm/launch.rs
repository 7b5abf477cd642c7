//! Launches of the kernels of kernels/group_norm.

use super::options::{GroupNormInputs, GroupNormOptions};
use crate::error::{Error, Result};
use crate::kernels::{GROUP_NORM_COMBINE, GROUP_NORM_VJP_COMBINE, GroupNormParams};
use crate::kernels::{GROUP_NORM_WEIGHT_VJP, GroupNormWeightParams};
use crate::launch::{Either, Kernel, Operand, Place, Recorder};
use crate::ops::partial_sums::{self, Chunks};
use crate::ops::variants::{Variant, Variants, always};

/// Operands of one group norm node; see kernels/group_norm.
pub(in crate::ops) struct CudaNorm {
    inputs: GroupNormInputs<Operand>,
    dy: Option<Operand>,
    addend: Option<Operand>,
    y: Operand,
    /// The gradient with respect to `second`.
    second_y: Option<Operand>,
    statistics: [Operand; 2],
    options: GroupNormOptions,
}

/// The variants of a group norm and of its gradient.
pub(in crate::ops) static VARIANTS: Variants<CudaNorm> = Variants {
    op: "group_norm",
    all: &[
        Variant {
            name: "of_group",
            takes: |n, _| n.has_whole_groups(),
            pays: |n, _| n.fits_a_block(),
            record: |n, r| n.record_of_group(r),
        },
        Variant { name: "chunks", takes: |n, _| n.is_whole(), pays: always, record: |n, r| n.record_chunks(r, "") },
        Variant { name: "any", takes: always, pays: always, record: |n, r| n.record_chunks(r, "_any") },
    ],
};

impl CudaNorm {
    /// From a node with the inputs of `GroupNorm`.
    pub(super) fn forward(r: &Recorder<'_>, options: GroupNormOptions) -> CudaNorm {
        CudaNorm {
            inputs: options.inputs(r.inputs[0], &r.inputs[1..]),
            dy: None,
            addend: None,
            y: r.outputs[0],
            second_y: None,
            statistics: [r.outputs[1], r.outputs[2]],
            options,
        }
    }

    /// From a node with the inputs of `GroupNormVjp`.
    pub(super) fn reverse(r: &Recorder<'_>, options: GroupNormOptions, addend: bool) -> CudaNorm {
        CudaNorm {
            inputs: options.inputs(r.inputs[1], &r.inputs[4..]),
            dy: Some(r.inputs[0]),
            addend: r.inputs.last().copied().filter(|_| addend),
            y: r.outputs[0],
            second_y: r.outputs.get(1).copied(),
            statistics: [r.inputs[2], r.inputs[3]],
            options,
        }
    }

    /// Channels of x and `second` together.
    fn channels(&self) -> usize {
        self.inputs.gamma.shape.c
    }

    /// Pixels per chunk and number of chunks: about four blocks per multiprocessor, with 8 to 1024
    /// pixels each.
    fn chunks(&self, r: &Recorder<'_>) -> (usize, usize) {
        let (s, wanted) = (self.inputs.x.shape, 4 * r.chip.multiprocessors);
        let pixels = s.h * s.w;
        let chunk = (pixels * s.n).div_ceil(wanted).clamp(8, 1024).min(pixels.max(1));
        (chunk, pixels.div_ceil(chunk))
    }

    /// The parameters of a launch that writes y or dx.
    fn params(&self, r: &Recorder<'_>) -> GroupNormParams {
        let (s, (chunk, chunks)) = (self.inputs.x.shape, self.chunks(r));
        let GroupNormInputs { x, gamma, beta, film, second } = self.inputs;
        // The forward pass writes the statistics; the reverse pass reads them.
        let statistic = |o: Operand| match self.dy {
            Some(_) => Either::Read(o.into()),
            None => Either::Write(o.into()),
        };
        GroupNormParams {
            y: self.y.into(),
            second_y: self.second_y.into(),
            x: x.into(),
            second: second.into(),
            dy: self.dy.into(),
            addend: self.addend.into(),
            mean: statistic(self.statistics[0]),
            rstd: statistic(self.statistics[1]),
            gamma: gamma.into(),
            beta: beta.into(),
            film: film.into(),
            partial: Place::NONE,
            sums: Place::NONE,
            n: s.n,
            pixels: s.h * s.w,
            channels: self.channels(),
            first: s.c,
            groups: self.options.groups,
            chunk,
            chunks,
            silu: self.options.silu.into(),
            eps: self.options.eps,
        }
    }

    /// Channels of a 16-byte vector.
    fn vector(&self) -> usize {
        16 / self.inputs.x.dtype.bytes()
    }

    /// Whether both tensors consist of whole vectors.
    fn is_whole(&self) -> bool {
        [self.inputs.x.shape.c, self.channels()].iter().all(|c| c % self.vector() == 0)
    }

    fn check_types(&self) -> Result<()> {
        let GroupNormInputs { x, gamma, beta, film, second } = self.inputs;
        let all = [Some(gamma), Some(beta), Some(self.y), film, second, self.dy, self.addend];
        if all.iter().flatten().all(|o| o.dtype == x.dtype) {
            return Ok(());
        }
        Err(Error::Failed("group_norm: its tensors are not stored in one type".into()))
    }

    /// The kernel `what` for the storage type; `access` is "" for vectors and "_any" for single
    /// channels.
    fn kernel(&self, what: &str, access: &str) -> Kernel<GroupNormParams> {
        let way = if self.dy.is_some() { "group_norm_vjp" } else { "group_norm" };
        Kernel::named(&format!("{way}{what}_{}{access}", self.inputs.x.dtype.name()))
    }

    /// Whether groups consist of whole vectors.
    fn has_whole_groups(&self) -> bool {
        self.is_whole() && self.channels() / self.options.groups % self.vector() == 0
    }

    /// Whether the values of a group fit the cache of a multiprocessor.
    fn fits_a_block(&self) -> bool {
        let per = self.channels() / self.options.groups;
        self.inputs.x.shape.h * self.inputs.x.shape.w * per * self.inputs.x.dtype.bytes() <= 64 << 10
    }

    /// Records the best variant.
    pub(super) fn record(&self, r: &mut Recorder<'_>) -> Result<()> {
        self.check_types()?;
        r.record_best(&VARIANTS, self);
        Ok(())
    }

    /// One launch, with a block for each group.
    fn record_of_group(&self, r: &mut Recorder<'_>) {
        let s = self.inputs.x.shape;
        let sums = self.dy.is_some().then(|| r.scratch(s.n * self.options.groups * 2)).into();
        let params = GroupNormParams { sums, ..self.params(r) };
        r.launch(self.kernel("_of_group", ""), [self.options.groups, s.n, 1], 512, 4 * 512 / 32, params);
    }

    /// Three launches: sums of chunks of pixels, sums of the chunks, the result.
    fn record_chunks(&self, r: &mut Recorder<'_>, access: &str) {
        let (s, (_, chunks)) = (self.inputs.x.shape, self.chunks(r));
        let (params, channels) = (self.params(r), self.channels());
        let vector = if access.is_empty() { self.vector() } else { 1 };
        let rows = 256 / (channels / vector).min(256);
        let partial = r.scratch(s.n * chunks * self.options.groups * 2).into();
        let sums = r.scratch(s.n * self.options.groups * 2).into();
        // Two sums per channel for each row of threads, and the mean of every channel, in f32.
        let shared = 4 * (2 * rows + 1) * channels;
        let grid = [chunks, s.n, 1];
        let of_chunks =
            GroupNormParams { y: Place::NONE, second_y: Place::NONE, addend: Place::NONE, partial, ..params };
        r.launch(self.kernel("_statistics", access), grid, 256, shared, of_chunks);
        let combined = GroupNormParams { sums, ..of_chunks };
        let combine = if self.dy.is_some() { GROUP_NORM_VJP_COMBINE } else { GROUP_NORM_COMBINE };
        r.launch(combine, [s.n * self.options.groups, 1, 1], 256, 4 * 256 / 32, combined);
        r.launch(self.kernel("", access), grid, 256, 0, GroupNormParams { sums, ..params });
    }

    /// Records the gradient with respect to film, in one launch.
    pub(super) fn record_film(&self, r: &mut Recorder<'_>) -> Result<()> {
        self.check_types()?;
        let s = self.inputs.x.shape;
        let kernel = Kernel::named(&format!("group_norm_film_vjp_{}", self.inputs.x.dtype.name()));
        r.launch(kernel, [self.channels().div_ceil(32), s.n, 1], 256, 2048, self.params(r));
        Ok(())
    }

    /// Records the gradients with respect to gamma and beta of a norm of one tensor, which are
    /// added to the last two inputs of the node if it has `addends`: sums of chunks of pixels, and
    /// the sums of all chunks.
    pub(super) fn record_weight(&self, r: &mut Recorder<'_>, addends: bool) {
        let (s, GroupNormInputs { x, gamma, beta, film, .. }) = (self.inputs.x.shape, self.inputs);
        let chunks = Chunks::new(r, (s.n, s.h * s.w), s.c);
        let parts = s.n * chunks.count;
        let partial = r.scratch(parts * 2 * s.c);
        let params = GroupNormWeightParams {
            partial: partial.into(),
            x: x.into(),
            dy: self.dy.into(),
            gamma: gamma.into(),
            beta: beta.into(),
            film: film.into(),
            mean: self.statistics[0].into(),
            rstd: self.statistics[1].into(),
            pixels: s.h * s.w,
            chunk: chunks.pixels,
            channels: s.c,
            groups: self.options.groups,
            silu: self.options.silu.into(),
        };
        let grid = [chunks.columns, chunks.count, s.n];
        r.launch(GROUP_NORM_WEIGHT_VJP, grid, 256, 2 * Chunks::SHARED, params);
        let before = r.inputs.len() - 2;
        let [dgamma, dbeta] = [0, 1].map(|k| (r.outputs[k], addends.then(|| r.inputs[before + k])));
        partial_sums::record(r, partial, parts, dgamma, Some(dbeta));
    }
}
