//! Launches of the kernels of kernels/group_norm.

use super::options::GroupNormOptions;
use crate::error::{Error, Result};
use crate::launch::{Operand, Params, Recorder};

/// What the kernels of one node are given; see kernels/group_norm.
pub(super) struct CudaNorm {
    x: Operand,
    second: Option<Operand>,
    dy: Option<Operand>,
    addend: Option<Operand>,
    y: Operand,
    /// The gradient by the second source.
    second_y: Option<Operand>,
    statistics: [Operand; 2],
    gamma: Operand,
    beta: Operand,
    film: Option<Operand>,
    options: GroupNormOptions,
}

impl CudaNorm {
    /// Of a node with the inputs of `GroupNorm`.
    pub(super) fn forward(r: &Recorder<'_>, options: GroupNormOptions) -> CudaNorm {
        let statistics = [r.outputs[1], r.outputs[2]];
        CudaNorm::with(r, options, 0, None, statistics)
    }

    /// Of a node with the inputs of `GroupNormVjp`.
    pub(super) fn reverse(r: &Recorder<'_>, options: GroupNormOptions, addend: bool) -> CudaNorm {
        let addend = addend.then(|| r.inputs[r.inputs.len() - 1]);
        let second_y = options.joined.then(|| r.outputs.get(1).copied()).flatten();
        let norm = CudaNorm::with(r, options, 1, Some(r.inputs[0]), [r.inputs[2], r.inputs[3]]);
        CudaNorm { addend, second_y, ..norm }
    }

    /// x is input number `x`; the parameters follow it and, in the reverse, the statistics.
    fn with(
        r: &Recorder<'_>,
        options: GroupNormOptions,
        x: usize,
        dy: Option<Operand>,
        statistics: [Operand; 2],
    ) -> CudaNorm {
        let parameters = &r.inputs[if dy.is_some() { 4 } else { 1 }..];
        CudaNorm {
            x: r.inputs[x],
            second: options.second(parameters).copied(),
            dy,
            addend: None,
            y: r.outputs[0],
            second_y: None,
            statistics,
            gamma: parameters[0],
            beta: parameters[1],
            film: options.film.then(|| parameters[2]),
            options,
        }
    }

    /// Channels of both sources together.
    fn channels(&self) -> usize {
        self.gamma.shape.c
    }

    /// Pixels of a chunk and number of chunks: enough blocks to fill the chip, each large enough to be worth one.
    fn chunks(&self, r: &Recorder<'_>) -> (usize, usize) {
        let (s, wanted) = (self.x.shape, 4 * r.limits.multiprocessors);
        let pixels = s.h * s.w;
        let chunk = (pixels * s.n).div_ceil(wanted).clamp(8, 1024).min(pixels.max(1));
        (chunk, pixels.div_ceil(chunk))
    }

    fn params(&self, partial: Option<&Operand>, sums: Option<&Operand>, writes: bool, r: &Recorder<'_>) -> Params {
        let (s, (chunk, chunks)) = (self.x.shape, self.chunks(r));
        let params = Params::new().write_if(Some(&self.y).filter(|_| writes));
        let params = params.write_if(self.second_y.as_ref().filter(|_| writes));
        let params = params.read(&self.x).read_if(self.second.as_ref()).read_if(self.dy.as_ref());
        let params = params.read_if(self.addend.as_ref().filter(|_| writes));
        // The reverse only reads what the forward pass left.
        let [mean, rstd] = &self.statistics;
        let params = match self.dy {
            Some(_) => params.read(mean).read(rstd),
            None => params.write(mean).write(rstd),
        };
        let params = params.read(&self.gamma).read(&self.beta).read_if(self.film.as_ref());
        let params = params.write_if(partial).write_if(sums);
        let sizes = [s.n, s.h * s.w, self.channels(), s.c, self.options.groups, chunk, chunks];
        params.i32s(&sizes).i32(self.options.silu.into()).f32(self.options.eps)
    }

    /// Channels that one access takes: a 16-byte vector where both sources are made of such, else one.
    fn vector(&self) -> usize {
        let vector = 16 / self.x.dtype.bytes();
        if self.x.shape.c % vector == 0 && self.channels() % vector == 0 { vector } else { 1 }
    }

    /// The kernel file, without its ending.
    fn file(&self) -> &'static str {
        if self.dy.is_some() { "vjp" } else { "forward" }
    }

    fn name(&self, what: &str) -> Result<String> {
        let dtype = self.x.dtype;
        let all = [Some(self.gamma), Some(self.beta), Some(self.y), self.film, self.second, self.dy, self.addend];
        if !all.iter().flatten().all(|o| o.dtype == dtype) {
            return Err(Error::Failed("group_norm: its tensors are not stored in one type".into()));
        }
        let any = if self.vector() > 1 { "" } else { "_any" };
        Ok(format!("group_norm/{}::{what}_{}{any}", self.file(), dtype.name()))
    }

    /// Whether a block can take all pixels of a group: its channels are whole vectors, and its values stay in a multiprocessor's cache.
    fn fits_a_block(&self) -> bool {
        let per = self.channels() / self.options.groups;
        let bytes = self.x.shape.h * self.x.shape.w * per * self.x.dtype.bytes();
        self.vector() > 1 && per % self.vector() == 0 && bytes <= 64 << 10
    }

    /// One launch by `in_one`, or the three of `names`.
    pub(super) fn record(&self, r: &mut Recorder<'_>, in_one: &str, names: [&str; 3]) -> Result<()> {
        let (s, (_, chunks)) = (self.x.shape, self.chunks(r));
        if self.fits_a_block() {
            let sums = self.dy.is_some().then(|| r.scratch(s.n * self.options.groups * 2));
            let params = self.params(None, sums.as_ref(), true, r);
            r.launch(self.name(in_one)?, [self.options.groups, s.n, 1], 512, 4 * 512 / 32, params);
            return Ok(());
        }
        let channels = self.channels();
        let rows = 256 / (channels / self.vector()).min(256);
        let partial = r.scratch(s.n * chunks * self.options.groups * 2);
        let sums = r.scratch(s.n * self.options.groups * 2);
        // Two sums per channel and row of threads, and the centre of every channel.
        let shared = 4 * (2 * rows + 1) * channels;
        let grid = [chunks, s.n, 1];
        let first = self.params(Some(&partial), None, false, r);
        r.launch(self.name(names[0])?, grid, 256, shared, first);
        let second = self.params(Some(&partial), Some(&sums), false, r);
        r.launch(
            format!("group_norm/{}::{}", self.file(), names[1]),
            [s.n * self.options.groups, 1, 1],
            256,
            4 * 256 / 32,
            second,
        );
        let last = self.params(None, Some(&sums), true, r);
        r.launch(self.name(names[2])?, grid, 256, 0, last);
        Ok(())
    }

    /// The gradient by film, one launch.
    pub(super) fn record_film(&self, r: &mut Recorder<'_>) -> Result<()> {
        self.name("")?;
        let s = self.x.shape;
        let name = format!("group_norm/vjp::group_norm_film_vjp_{}", self.x.dtype.name());
        r.launch(name, [self.channels().div_ceil(32), s.n, 1], 256, 2048, self.params(None, None, true, r));
        Ok(())
    }
}
