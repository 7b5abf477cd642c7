//! One small matrix for the channels of every pixel: `y[p, o] = sum over c of M[o, c] x[p, c]`
//!
//! Colour transforms are such maps. VJP: `dx[p, c] = sum over o of M[o, c] dy[p, o]`, the same op
//! with the transposed matrix. M belongs to the op and has no gradient.

use super::prelude::*;
use crate::backend::cpu::parallel::for_item_chunks;

/// The product. Input: x (n, h, w, c). Output (n, h, w, rows of M).
#[derive(Debug, Clone)]
pub struct ChannelMix {
    /// M: for every output channel the weights of the input channels.
    pub rows: Vec<Vec<f32>>,
}

impl ChannelMix {
    fn transposed(&self) -> ChannelMix {
        let column = |c: usize| self.rows.iter().map(|row| row[c]).collect();
        ChannelMix { rows: (0..self.rows[0].len()).map(column).collect() }
    }
}

impl Op for ChannelMix {
    fn name(&self) -> &'static str {
        "channel_mix"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.rows.is_empty() || self.rows.iter().any(|row| row.len() != x.c) {
            return Err(format!("every row of the matrix needs {} weights, as x has channels", x.c));
        }
        Ok(vec![single("", Shape { c: self.rows.len(), ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let dx = r.graph.one(self.transposed(), &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        2 * (outputs[0].numel() * inputs[0].c) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (x, c, rows) = (launch.inputs[0], launch.input_shapes[0].c, self.rows.len());
        let all = launch.outputs[0].len();
        for_item_chunks(launch.outputs[0], all, |_, at, out| {
            for (k, y) in (at..).zip(out) {
                let pixel = &x[k / rows * c..][..c];
                *y = self.rows[k % rows].iter().zip(pixel).map(|(m, x)| m * x).sum();
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let count = y.shape.numel();
        let matrix = r.table(&self.rows.concat())?;
        let params = kernels::ChannelMixParams {
            y: y.into(),
            x: x.into(),
            matrix: matrix.into(),
            count,
            rows: y.shape.c,
            channels: x.shape.c,
        };
        r.each(kernels::CHANNEL_MIX, count, 1, params);
        Ok(())
    }
}
