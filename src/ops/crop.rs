//! Crop to the top left part of an image, and its adjoint: zero padding below and to the right.
//!
//! A model accepts only certain sizes, so an image may be padded for it; the operator then measures
//! the cropped image. The VJP of crop is pad, and the VJP of pad is crop.

use super::prelude::*;
use rayon::prelude::*;

/// Crop to the first `h` rows and `w` columns. Input: x.
#[derive(Debug, Clone)]
pub struct Crop {
    /// Rows kept.
    pub h: usize,
    /// Columns kept.
    pub w: usize,
}

/// Pads x with zeros to `h` rows and `w` columns. Input: x.
#[derive(Debug, Clone)]
pub struct ZeroPad {
    /// Rows of the output.
    pub h: usize,
    /// Columns of the output.
    pub w: usize,
}

impl Op for Crop {
    fn name(&self) -> &'static str {
        "crop"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.h > x.h || self.w > x.w {
            return Err(format!("{}x{} rows and columns of {x}", self.h, self.w));
        }
        Ok(vec![single("", Shape { h: self.h, w: self.w, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.shape(0));
        let dx = r.graph.one(ZeroPad { h: x.h, w: x.w }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, x) = (launch.input_shapes[0], launch.inputs[0]);
        launch.outputs[0].par_chunks_mut(self.w * s.c).enumerate().for_each(|(k, out)| {
            let (n, i) = (k / self.h, k % self.h);
            out.copy_from_slice(&x[(n * s.h + i) * s.w * s.c..][..self.w * s.c]);
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        r.each(kernels::CROP, y.shape.numel(), 1, params(x, y));
        Ok(())
    }
}

impl Op for ZeroPad {
    fn name(&self) -> &'static str {
        "zero_pad"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.h < x.h || self.w < x.w {
            return Err(format!("{x} does not fit into {}x{} rows and columns", self.h, self.w));
        }
        Ok(vec![single("", Shape { h: self.h, w: self.w, ..x })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.shape(0));
        let dx = r.graph.one(Crop { h: x.h, w: x.w }, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, x) = (launch.input_shapes[0], launch.inputs[0]);
        let row = s.w * s.c;
        launch.outputs[0].par_chunks_mut(self.w * s.c).enumerate().for_each(|(k, out)| {
            let (n, i) = (k / self.h, k % self.h);
            out.fill(0.0);
            if i < s.h {
                out[..row].copy_from_slice(&x[(n * s.h + i) * row..][..row]);
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        r.each(kernels::ZERO_PAD, y.shape.numel(), 1, params(x, y));
        Ok(())
    }
}

fn params(x: Operand, y: Operand) -> kernels::CropParams {
    kernels::CropParams {
        y: y.into(),
        x: x.into(),
        count: y.shape.numel(),
        yh: y.shape.h,
        yw: y.shape.w,
        xh: x.shape.h,
        xw: x.shape.w,
        channels: x.shape.c,
    }
}
