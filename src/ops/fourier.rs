//! The centred orthonormal Fourier transform along one axis, with padding and cropping.
//!
//! With n the larger extent and both extents in the middle of it,
//! `y[k] = 1/sqrt(n) sum over j of x[j] exp(-2 pi i (j - c)(k - c) / n)`, c = n / 2 rounded down:
//! frequency 0 lies in the middle, as after `fftshift`. Complex images have twice the channels: all
//! real parts, then all imaginary parts. Zeros surround a shorter x; a shorter y is the middle part.
//! VJP: the transform is unitary, so the adjoint is the inverse transform with padding and cropping
//! in each other's place, and with the real part in place of "the imaginary part is 0".

use super::axis_filter::Axis;
use super::channel_mix::ChannelMix;
use super::prelude::*;
use crate::graph::record::{Graph, TensorId};
use num_complex::Complex32;
use rayon::prelude::*;
use rustfft::{FftDirection, FftPlanner};
use std::f64::consts::TAU;

/// Whether an image is real or complex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// c channels.
    Real,
    /// 2 c channels: the real parts, then the imaginary parts.
    Complex,
}

/// The transform of every line along `axis`. Input: x (n, h, w, c or 2 c).
#[derive(Debug, Clone)]
pub struct Fourier {
    /// The dimension that is transformed.
    pub axis: Axis,
    /// Extent of the output along it. The transform has the larger extent of input and output.
    pub extent: usize,
    /// Uses exp(+...).
    pub inverse: bool,
    /// Parts of the input.
    pub from: Parts,
    /// Parts of the output. Of a complex result, `Real` keeps the real part.
    pub to: Parts,
}

/// Longest line that a GPU's shared memory holds.
pub const LONGEST: usize = 6144;

/// Where the values of a transform lie.
struct Lines {
    /// Values of the axis in input and output, and of the transform.
    from: usize,
    to: usize,
    n: usize,
    /// Pixels within one step along the axis: 1 for columns, w for rows.
    within: usize,
    /// Channels of the real part.
    channels: usize,
}

impl Fourier {
    fn lines(&self, x: Shape) -> Lines {
        let (from, within) = if self.axis == Axis::Height { (x.h, x.w) } else { (x.w, 1) };
        let channels = if self.from == Parts::Real { x.c } else { x.c / 2 };
        Lines { from, to: self.extent, n: from.max(self.extent), within, channels }
    }
}

impl Op for Fourier {
    fn name(&self) -> &'static str {
        "fourier"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0].shape;
        if self.from == Parts::Complex && x.c % 2 != 0 {
            return Err(format!("a complex image has an even number of channels, x has {}", x.c));
        }
        let lines = self.lines(x);
        if self.extent == 0 || lines.n > LONGEST {
            return Err(format!("a transform of {} values; 1 to {LONGEST} are possible", lines.n));
        }
        let c = if self.to == Parts::Real { lines.channels } else { 2 * lines.channels };
        let shape =
            if self.axis == Axis::Height { Shape { h: self.extent, ..x } } else { Shape { w: self.extent, ..x } };
        Ok(vec![single("", Shape { c, ..shape })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, extent) = (r.dout(0)?, r.name(), self.lines(r.shape(0)).from);
        let adjoint = Fourier { axis: self.axis, extent, inverse: !self.inverse, from: self.to, to: self.from };
        let dx = r.graph.one(adjoint, &name, &[dout])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, inputs: &[Shape], outputs: &[Shape]) -> u64 {
        // 5 n log2 n per line, as is usual.
        let n = self.lines(inputs[0]).n;
        (5.0 * (n as f64).log2() * (outputs[0].numel() / self.extent * n) as f64) as u64
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (s, o, x) = (launch.input_shapes[0], launch.output_shapes[0], launch.inputs[0]);
        let Lines { from, to, n, within, channels } = self.lines(s);
        let direction = if self.inverse { FftDirection::Inverse } else { FftDirection::Forward };
        let transform = FftPlanner::<f32>::new().plan_fft(n, direction);
        let (scale, centre) = (1.0 / (n as f32).sqrt(), n / 2);
        // What lies outside the axis: batch items, or rows of all items.
        launch.outputs[0].par_chunks_mut(to * within * o.c).enumerate().for_each(|(outside, out)| {
            let x = &x[outside * from * within * s.c..][..from * within * s.c];
            let mut line = vec![Complex32::default(); n];
            let mut scratch = vec![Complex32::default(); transform.get_inplace_scratch_len()];
            for (pixel, c) in (0..within).flat_map(|p| (0..channels).map(move |c| (p, c))) {
                line.fill(Complex32::default());
                for j in 0..from {
                    let at = (j * within + pixel) * s.c + c;
                    let imaginary = if self.from == Parts::Complex { x[at + channels] } else { 0.0 };
                    line[(j + (n - from) / 2 + n - centre) % n] = Complex32::new(x[at], imaginary);
                }
                transform.process_with_scratch(&mut line, &mut scratch);
                for k in 0..to {
                    let at = (k * within + pixel) * o.c + c;
                    let value = line[(k + (n - to) / 2 + n - centre) % n] * scale;
                    out[at] = value.re;
                    if self.to == Parts::Complex {
                        out[at + channels] = value.im;
                    }
                }
            }
        });
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y) = (r.inputs[0], r.outputs[0]);
        let Lines { from, to, n, within, channels } = self.lines(x.shape);
        let factors = factors(n);
        let sign = if self.inverse { 1.0 } else { -1.0 };
        let wave = |k: usize| (sign * TAU * k as f64 / n as f64).sin_cos();
        let waves: Vec<f32> = (0..n).map(wave).flat_map(|(sin, cos)| [cos as f32, sin as f32]).collect();
        // Neighbouring lines share a block, as many as fit into 48 KiB.
        let lines = (48 * 1024 / (16 * n)).clamp(1, 8);
        let count = x.shape.n * x.shape.h * x.shape.w / from * channels;
        let (table, waves) = (r.table(&factors)?, r.table(&waves)?);
        let params = kernels::FourierParams {
            y: y.into(),
            x: x.into(),
            waves: waves.into(),
            factors: table.into(),
            count,
            within,
            channels,
            n,
            factor_count: factors.len(),
            from,
            to,
            complex_from: usize::from(self.from == Parts::Complex),
            complex_to: usize::from(self.to == Parts::Complex),
            lines,
            scale: (1.0 / (n as f64).sqrt()) as f32,
        };
        r.launch(kernels::FOURIER, [count.div_ceil(lines), 1, 1], 256, 16 * n * lines, params);
        Ok(())
    }
}

impl Graph {
    /// The Hartley transform of every channel along height and width: the real less the imaginary
    /// part of the Fourier transform. It is symmetric and its own inverse.
    pub fn hartley(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        let Shape { h, w, c, .. } = self.shape(x);
        let rows = Fourier { axis: Axis::Height, extent: h, inverse: false, from: Parts::Real, to: Parts::Complex };
        let columns = Fourier { axis: Axis::Width, extent: w, from: Parts::Complex, ..rows };
        let x = self.one(rows, &format!("{name}.rows"), &[x])?;
        let x = self.one(columns, &format!("{name}.columns"), &[x])?;
        let weight = |o: usize, i: usize| [(o, 1.0), (o + c, -1.0)].iter().find(|t| t.0 == i).map_or(0.0, |t| t.1);
        let rows = (0..c).map(|o| (0..2 * c).map(|i| weight(o, i)).collect()).collect();
        self.one(ChannelMix { rows }, &format!("{name}.hartley"), &[x])
    }
}

/// n as a product: of fours where it has them, else of primes.
fn factors(mut n: usize) -> Vec<i32> {
    let mut factors = Vec::new();
    let mut factor = 4;
    while n > 1 {
        while n % factor == 0 {
            factors.push(factor as i32);
            n /= factor;
        }
        factor = match factor {
            4 => 2,
            2 => 3,
            odd => odd + 2,
        };
    }
    factors
}
