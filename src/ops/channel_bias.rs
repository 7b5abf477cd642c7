//! `y[n, p, c] = x[n, p, c] + b[n, c]`: the time embedding of blocks without scale-shift norm
//!
//! VJP: dx = dy, the same tensor; db[n, c] = sum over pixels of dy.

use super::*;
use rayon::prelude::*;

/// Adds one value per item and channel. Inputs: x, b (n, 1, 1, c).
#[derive(Debug, Clone)]
pub struct ChannelBias;

/// Sum over the pixels of an item. Input: dy. Output (n, 1, 1, c).
#[derive(Debug, Clone)]
pub struct ChannelSum;

impl Op for ChannelBias {
    fn name(&self) -> &'static str {
        "channel_bias"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let x = inputs[0].shape;
        expect_shape(inputs[1], Shape::rows(x.n, x.c))?;
        Ok(vec![storage(x)])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name) = (r.dout(0)?, r.name());
        if r.wants(0) {
            r.give(0, dout);
        }
        if r.wants(1) {
            let db = r.graph.one(ChannelSum, &name, &[dout])?;
            r.give(1, db);
        }
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        inputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let s = launch.output_shapes[0];
        let (x, b) = (launch.input_unless_in_place(0), launch.inputs[1]);
        let row = s.w * s.c;
        launch.outputs[0].par_chunks_mut(row).enumerate().for_each(|(k, out)| {
            if let Some(x) = x {
                out.copy_from_slice(&x[k * row..][..row]);
            }
            let b = &b[k / s.h * s.c..][..s.c];
            out.chunks_mut(s.c).for_each(|out| out.iter_mut().zip(b).for_each(|(o, b)| *o += b));
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, b, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let item = y.shape.item();
        let params = Params::new().view_out(&y).view(&x).view(&b).i64(item).i32(y.shape.c);
        r.each("channel_bias", item, y.shape.n, params);
        Ok(())
    }
}

impl Op for ChannelSum {
    fn name(&self) -> &'static str {
        "channel_sum"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        Ok(vec![storage(Shape::rows(x.n, x.c))])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..1, FIRST_ORDER_ONLY)
    }
    fn flops(&self, inputs: &[Shape], _: &[Shape]) -> u64 {
        inputs[0].numel() as u64
    }
    fn run_cpu(&self, launch: &mut Launch<'_>) {
        let (s, x) = (launch.input_shapes[0], launch.inputs[0]);
        for (out, x) in launch.outputs[0].chunks_mut(s.c).zip(x.chunks(s.item())) {
            let mut sums = vec![0f64; s.c];
            for pixel in x.chunks(s.c) {
                sums.iter_mut().zip(pixel).for_each(|(s, &x)| *s += x as f64);
            }
            out.iter_mut().zip(&sums).for_each(|(o, &s)| *o = s as f32);
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let params = Params::new().view_out(&y).view(&x).i64(x.shape.h * x.shape.w).i32(x.shape.c);
        r.launch("channel_bias::channel_sum", [x.shape.c.div_ceil(32), x.shape.n, 1], 256, 1024, params);
        Ok(())
    }
}
