//! Launches of the kernels of kernels/group_norm.

use super::options::{GroupNormInputs, GroupNormOptions};
use crate::error::{Error, Result};
use crate::kernels::GroupNormParams;
use crate::launch::{Either, Kernel, Operand, Place, Recorder};

/// Operands of one group norm node; see kernels/group_norm.
pub(super) struct CudaNorm {
    inputs: GroupNormInputs<Operand>,
    dy: Option<Operand>,
    addend: Option<Operand>,
    y: Operand,
    /// The gradient with respect to `second`.
    second_y: Option<Operand>,
    statistics: [Operand; 2],
    options: GroupNormOptions,
}

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
        let (s, wanted) = (self.inputs.x.shape, 4 * r.limits.multiprocessors);
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

    /// Channels per memory access: a 16-byte vector if both tensors consist of whole vectors, else
    /// one.
    fn vector(&self) -> usize {
        let vector = 16 / self.inputs.x.dtype.bytes();
        if self.inputs.x.shape.c % vector == 0 && self.channels() % vector == 0 { vector } else { 1 }
    }

    fn check_types(&self) -> Result<()> {
        let GroupNormInputs { x, gamma, beta, film, second } = self.inputs;
        let all = [Some(gamma), Some(beta), Some(self.y), film, second, self.dy, self.addend];
        if all.iter().flatten().all(|o| o.dtype == x.dtype) {
            return Ok(());
        }
        Err(Error::Failed("group_norm: its tensors are not stored in one type".into()))
    }

    /// The kernel `what` for the storage type and the number of channels.
    fn kernel(&self, what: &str) -> Result<Kernel<GroupNormParams>> {
        self.check_types()?;
        let any = if self.vector() > 1 { "" } else { "_any" };
        Ok(Kernel::named(&format!("{what}_{}{any}", self.inputs.x.dtype.name())))
    }

    /// Whether one block can process a whole group: its channels are whole vectors, and its values
    /// fit the cache of a multiprocessor.
    fn fits_a_block(&self) -> bool {
        let per = self.channels() / self.options.groups;
        let bytes = self.inputs.x.shape.h * self.inputs.x.shape.w * per * self.inputs.x.dtype.bytes();
        self.vector() > 1 && per % self.vector() == 0 && bytes <= 64 << 10
    }

    /// Records one launch of `in_one` if a group fits a block, else the three launches of `names`.
    pub(super) fn record(&self, r: &mut Recorder<'_>, in_one: &str, names: [&str; 3]) -> Result<()> {
        let (s, (_, chunks)) = (self.inputs.x.shape, self.chunks(r));
        let params = self.params(r);
        if self.fits_a_block() {
            let sums = self.dy.is_some().then(|| r.scratch(s.n * self.options.groups * 2)).into();
            let params = GroupNormParams { sums, ..params };
            r.launch(self.kernel(in_one)?, [self.options.groups, s.n, 1], 512, 4 * 512 / 32, params);
            return Ok(());
        }
        let channels = self.channels();
        let rows = 256 / (channels / self.vector()).min(256);
        let partial = r.scratch(s.n * chunks * self.options.groups * 2).into();
        let sums = r.scratch(s.n * self.options.groups * 2).into();
        // Two sums per channel for each row of threads, and the mean of every channel, in f32.
        let shared = 4 * (2 * rows + 1) * channels;
        let grid = [chunks, s.n, 1];
        let of_chunks =
            GroupNormParams { y: Place::NONE, second_y: Place::NONE, addend: Place::NONE, partial, ..params };
        r.launch(self.kernel(names[0])?, grid, 256, shared, of_chunks);
        let combined = GroupNormParams { sums, ..of_chunks };
        r.launch(Kernel::named(names[1]), [s.n * self.options.groups, 1, 1], 256, 4 * 256 / 32, combined);
        r.launch(self.kernel(names[2])?, grid, 256, 0, GroupNormParams { sums, ..params });
        Ok(())
    }

    /// Records the gradient with respect to film, in one launch.
    pub(super) fn record_film(&self, r: &mut Recorder<'_>) -> Result<()> {
        self.check_types()?;
        let s = self.inputs.x.shape;
        let kernel = Kernel::named(&format!("group_norm_film_vjp_{}", self.inputs.x.dtype.name()));
        r.launch(kernel, [self.channels().div_ceil(32), s.n, 1], 256, 2048, self.params(r));
        Ok(())
    }
}
