//! Concatenation along channels, channel slices and channel padding.
//!
//! `concat(a, b)` appends b's channels to a's. VJP: da and db are channel slices of dout.
//! `slice(x)` takes channels `start .. start + len`. VJP: `pad`, dx is dout between zero channels.
//! `pad(x)` puts zero channels before and after x. VJP: `slice`.

use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use rayon::prelude::*;

/// Channels of a, then channels of b. Inputs: a, b.
#[derive(Debug, Clone)]
pub struct Concat;

/// Channels `start .. start + len`. Input: x.
#[derive(Debug, Clone)]
pub struct ChannelSlice {
    /// First channel taken.
    pub start: usize,
    /// Number of channels taken.
    pub len: usize,
}

/// x becomes channels `start ..` of `total`; all other channels are zero. Input: x.
#[derive(Debug, Clone)]
pub struct ChannelPad {
    /// Output channel that takes x's first channel.
    pub start: usize,
    /// Number of output channels.
    pub total: usize,
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let (a, b) = (inputs[0].shape, inputs[1].shape);
        expect_shape(inputs[1], Shape { c: b.c, ..a })?;
        Ok(vec![storage(Shape { c: a.c + b.c, ..a })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        let (a, b) = (r.shape(0).c, r.shape(1).c);
        for (i, start, len) in [(0, 0, a), (1, a, b)] {
            if r.wants(i) {
                let d = r.graph.one(ChannelSlice { start, len }, &name, &[dout])?;
                r.give(i, d);
            }
        }
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (ca, cb) = (launch.input_shapes[0].c, launch.input_shapes[1].c);
        let (a, b) = (launch.inputs[0], launch.inputs[1]);
        for_pixels(launch.outputs[0], ca + cb, |p, out| {
            out[..ca].copy_from_slice(&a[p * ca..][..ca]);
            out[ca..].copy_from_slice(&b[p * cb..][..cb]);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (a, b) = (r.inputs[0], r.inputs[1]);
        copy_channels(r, a, 0, 0, a.shape.c);
        copy_channels(r, b, a.shape.c, 0, b.shape.c);
        Ok(())
    }
}

impl Op for ChannelSlice {
    fn name(&self) -> &'static str {
        "channel_slice"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.start + self.len > x.c {
            return Err(format!("channels {} .. {} of {}", self.start, self.start + self.len, x.c));
        }
        Ok(vec![Output { name: "", shape: Shape { c: self.len, ..x }, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, total) = (r.dout(0)?, r.name(), r.shape(0).c);
        let dx = r.graph.one(ChannelPad { start: self.start, total }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (c, x) = (launch.input_shapes[0].c, launch.inputs[0]);
        let (start, len) = (self.start, self.len);
        for_pixels(launch.outputs[0], len, |p, out| out.copy_from_slice(&x[p * c + start..][..len]));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let x = r.inputs[0];
        copy_channels(r, x, 0, self.start, self.len);
        Ok(())
    }
}

impl Op for ChannelPad {
    fn name(&self) -> &'static str {
        "channel_pad"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.start + x.c > self.total {
            return Err(format!("{} channels from {} do not fit in {}", x.c, self.start, self.total));
        }
        Ok(vec![Output { name: "", shape: Shape { c: self.total, ..x }, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, len) = (r.dout(0)?, r.name(), r.shape(0).c);
        let dx = r.graph.one(ChannelSlice { start: self.start, len }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (c, x, start) = (launch.input_shapes[0].c, launch.inputs[0], self.start);
        for_pixels(launch.outputs[0], self.total, |p, out| {
            out.fill(0.0);
            out[start..start + c].copy_from_slice(&x[p * c..][..c]);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let params = kernels::ChannelPadParams {
            y: y.into(),
            x: x.into(),
            pixels: y.shape.numel() / y.shape.c,
            total: self.total,
            channels: x.shape.c,
            start: self.start,
        };
        r.each(kernels::CHANNEL_PAD, y.shape.numel(), 1, params);
        Ok(())
    }
}

/// Channels `from .. from + count` of x become channels `to ..` of the output.
fn copy_channels(r: &mut Recorder<'_>, x: Operand, to: usize, from: usize, count: usize) {
    let y = r.outputs[0];
    let pixels = y.shape.numel() / y.shape.c;
    let params = kernels::ChannelCopyParams {
        y: y.into(),
        x: x.into(),
        pixels,
        y_channels: y.shape.c,
        x_channels: x.shape.c,
        to,
        from,
        count,
    };
    r.each(kernels::CHANNEL_COPY, pixels * count.div_ceil(4), 1, params);
}

fn for_pixels(out: &mut [f32], c: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let pixels = (1 << 15) / c + 1;
    out.par_chunks_mut(pixels * c).enumerate().for_each(|(k, part)| {
        part.chunks_mut(c).enumerate().for_each(|(p, out)| f(k * pixels + p, out));
    });
}

impl Graph {
    /// Channels of `a`, then channels of `b`.
    pub fn concat(&mut self, name: &str, a: TensorId, b: TensorId) -> Result<TensorId> {
        self.one(Concat, name, &[a, b])
    }
}
