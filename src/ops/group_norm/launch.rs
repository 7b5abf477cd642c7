//! Launches of the kernels of kernels/group_norm.

use super::options::{GroupNormInputs, GroupNormOptions};
use crate::error::{Error, Result};
use crate::launch::{Operand, Params, Recorder};

/// What the kernels of one node are given; see kernels/group_norm.
pub(super) struct CudaNorm {
    inputs: GroupNormInputs<Operand>,
    dy: Option<Operand>,
    addend: Option<Operand>,
    y: Operand,
    /// The gradient by the second tensor.
    second_y: Option<Operand>,
    statistics: [Operand; 2],
    options: GroupNormOptions,
}

impl CudaNorm {
    /// Of a node with the inputs of `GroupNorm`.
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

    /// Of a node with the inputs of `GroupNormVjp`.
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

    /// Channels of x and the second tensor together.
    fn channels(&self) -> usize {
        self.inputs.gamma.shape.c
    }

    /// Pixels of a chunk and number of chunks: enough blocks to fill the chip, each large enough to be worth one.
    fn chunks(&self, r: &Recorder<'_>) -> (usize, usize) {
        let (s, wanted) = (self.inputs.x.shape, 4 * r.limits.multiprocessors);
        let pixels = s.h * s.w;
        let chunk = (pixels * s.n).div_ceil(wanted).clamp(8, 1024).min(pixels.max(1));
        (chunk, pixels.div_ceil(chunk))
    }

    fn params(&self, partial: Option<&Operand>, sums: Option<&Operand>, writes: bool, r: &Recorder<'_>) -> Params {
        let (s, (chunk, chunks)) = (self.inputs.x.shape, self.chunks(r));
        let params = Params::new().write_if(Some(&self.y).filter(|_| writes));
        let params = params.write_if(self.second_y.as_ref().filter(|_| writes));
        let params = params.read(&self.inputs.x).read_if(self.inputs.second.as_ref()).read_if(self.dy.as_ref());
        let params = params.read_if(self.addend.as_ref().filter(|_| writes));
        // The reverse only reads what the forward pass left.
        let [mean, rstd] = &self.statistics;
        let params = match self.dy {
            Some(_) => params.read(mean).read(rstd),
            None => params.write(mean).write(rstd),
        };
        let params = params.read(&self.inputs.gamma).read(&self.inputs.beta).read_if(self.inputs.film.as_ref());
        let params = params.write_if(partial).write_if(sums);
        let sizes = [s.n, s.h * s.w, self.channels(), s.c, self.options.groups, chunk, chunks];
        params.i32s(&sizes).i32(self.options.silu.into()).f32(self.options.eps)
    }

    /// Channels that one access takes: a 16-byte vector where both tensors are made of such, else one.
    fn vector(&self) -> usize {
        let vector = 16 / self.inputs.x.dtype.bytes();
        if self.inputs.x.shape.c % vector == 0 && self.channels() % vector == 0 { vector } else { 1 }
    }

    /// The kernel file, without its ending.
    fn file(&self) -> &'static str {
        if self.dy.is_some() { "vjp" } else { "forward" }
    }

    fn name(&self, what: &str) -> Result<String> {
        let dtype = self.inputs.x.dtype;
        let all = [
            Some(self.inputs.gamma),
            Some(self.inputs.beta),
            Some(self.y),
            self.inputs.film,
            self.inputs.second,
            self.dy,
            self.addend,
        ];
        if !all.iter().flatten().all(|o| o.dtype == dtype) {
            return Err(Error::Failed("group_norm: its tensors are not stored in one type".into()));
        }
        let any = if self.vector() > 1 { "" } else { "_any" };
        Ok(format!("group_norm/{}::{what}_{}{any}", self.file(), dtype.name()))
    }

    /// Whether a block can take all pixels of a group: its channels are whole vectors, and its values stay in a multiprocessor's cache.
    fn fits_a_block(&self) -> bool {
        let per = self.channels() / self.options.groups;
        let bytes = self.inputs.x.shape.h * self.inputs.x.shape.w * per * self.inputs.x.dtype.bytes();
        self.vector() > 1 && per % self.vector() == 0 && bytes <= 64 << 10
    }

    /// One launch by `in_one`, or the three of `names`.
    pub(super) fn record(&self, r: &mut Recorder<'_>, in_one: &str, names: [&str; 3]) -> Result<()> {
        let (s, (_, chunks)) = (self.inputs.x.shape, self.chunks(r));
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
        let s = self.inputs.x.shape;
        let name = format!("group_norm/vjp::group_norm_film_vjp_{}", self.inputs.x.dtype.name());
        r.launch(name, [self.channels().div_ceil(32), s.n, 1], 256, 2048, self.params(None, None, true, r));
        Ok(())
    }
}
