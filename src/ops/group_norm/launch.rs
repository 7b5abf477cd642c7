//! Launches of kernels/group_norm.cu.

use super::GroupNormOptions;
use crate::backend::cuda::launch::type_name;
use crate::backend::cuda::{Operand, Params, Recorder};
use crate::error::{Error, Result};

/// What the kernels of one node are given; see kernels/group_norm.cu.
pub(super) struct CudaNorm {
    pub x: Operand,
    pub dy: Option<Operand>,
    pub y: Operand,
    pub statistics: [Operand; 2],
    /// gamma, beta, and film if any.
    pub parameters: Vec<Operand>,
    pub options: GroupNormOptions,
}

impl CudaNorm {
    /// Of a node with the inputs of `GroupNormVjp`.
    pub(super) fn reverse(r: &Recorder<'_>, options: GroupNormOptions) -> CudaNorm {
        CudaNorm {
            x: r.inputs[1],
            dy: Some(r.inputs[0]),
            y: r.outputs[0],
            statistics: [r.inputs[2], r.inputs[3]],
            parameters: r.inputs[4..].to_vec(),
            options,
        }
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
        let params = if writes { Params::new().write(&self.y) } else { Params::new().i64(0) };
        let params = params.read(&self.x).read_if(self.dy.as_ref());
        // The reverse only reads what the forward pass left.
        let [mean, rstd] = &self.statistics;
        let params = match self.dy {
            Some(_) => params.read(mean).read(rstd),
            None => params.write(mean).write(rstd),
        };
        let params = params.read(&self.parameters[0]).read(&self.parameters[1]).read_if(self.parameters.get(2));
        let params = params.write_if(partial).write_if(sums);
        let sizes = [s.n, s.h * s.w, s.c, self.options.groups, chunk, chunks, usize::from(self.options.silu)];
        params.i32s(&sizes).f32(self.options.eps)
    }

    /// Whole vectors of channels, or one channel at a time.
    fn name(&self, what: &str) -> Result<String> {
        let dtype = self.x.dtype;
        let stored = self.parameters.iter().chain(&self.dy).chain([&self.y]);
        if !stored.clone().all(|o| o.dtype == dtype) {
            return Err(Error::Device("group_norm: its tensors are not stored in one type".into()));
        }
        let any = if self.x.shape.c % (16 / dtype.bytes()) == 0 { "" } else { "_any" };
        Ok(format!("group_norm::{what}_{}{any}", type_name(dtype)))
    }

    pub(super) fn record(&self, r: &mut Recorder<'_>, names: [&str; 3]) -> Result<()> {
        let (s, (_, chunks)) = (self.x.shape, self.chunks(r));
        let vector = if self.x.shape.c % (16 / self.x.dtype.bytes()) == 0 { 16 / self.x.dtype.bytes() } else { 1 };
        let rows = 256 / (s.c / vector).min(256);
        let partial = r.scratch(s.n * chunks * self.options.groups * 2);
        let sums = r.scratch(s.n * self.options.groups * 2);
        // One row of channel sums per row of threads; the reverse has two of them.
        let tables = if self.dy.is_some() { 2 } else { 1 };
        let shared = 4 * (tables * rows * s.c + self.options.groups);
        let grid = [chunks, s.n, 1];
        let first = self.params(Some(&partial), None, false, r);
        r.launch(self.name(names[0])?, grid, 256, shared, first);
        let second = self.params(Some(&partial), Some(&sums), false, r);
        r.launch(format!("group_norm::{}", names[1]), [s.n * self.options.groups, 1, 1], 32, 0, second);
        let last = self.params(None, Some(&sums), true, r);
        r.launch(self.name(names[2])?, grid, 256, 0, last);
        Ok(())
    }

    /// The gradient by film, one launch.
    pub(super) fn record_film(&self, r: &mut Recorder<'_>) -> Result<()> {
        self.name("")?;
        let s = self.x.shape;
        let name = format!("group_norm::group_norm_film_vjp_{}", type_name(self.x.dtype));
        r.launch(name, [s.c.div_ceil(32), s.n, 1], 256, 2048, self.params(None, None, true, r));
        Ok(())
    }
}
