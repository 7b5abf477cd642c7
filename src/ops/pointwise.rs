//! Functions of one value, applied to every element: `y = f(x)`; VJP: dx = dy f'(x), which reads x.
//!
//! To add a function: a struct with an `impl Pointwise` here, a line in kernels/pointwise.cu, a row
//! in the case table (src/selftest/cases/operators.rs) and its formula in tests/ops/truth.rs.

use super::prelude::*;
use crate::backend::cpu::math::{gelu, gelu_slope, silu, silu_slope};
use crate::backend::cpu::parallel::{map1, map2};

/// A function of one value. A type with this trait is an op with one input, x.
pub trait Pointwise: std::fmt::Debug + Clone + Send + Sync + 'static {
    /// Names of the op and of its VJP; the kernels have the same names.
    const NAMES: [&'static str; 2];
    /// Floating-point operations per element of the function and of its VJP.
    const FLOPS: [u64; 2];

    /// f(x)
    fn value(&self, x: f32) -> f32;

    /// dy f'(x)
    fn gradient(&self, dy: f32, x: f32) -> f32;

    /// The kernel parameters a and b.
    fn parameters(&self) -> [f32; 2] {
        [0.0; 2]
    }
}

/// The VJP of a function. Inputs: dy, x.
#[derive(Debug, Clone)]
pub struct PointwiseVjp<F>(pub F);

/// The sigmoid linear unit: `y = x s(x)` with `s(x) = 1 / (1 + exp(-x))`. y' = s + x s (1 - s) =
/// s (1 + x (1 - s)).
#[derive(Debug, Clone)]
pub struct Silu;

impl Pointwise for Silu {
    const NAMES: [&'static str; 2] = ["silu", "silu_vjp"];
    const FLOPS: [u64; 2] = [8, 12];
    fn value(&self, x: f32) -> f32 {
        silu(x)
    }
    fn gradient(&self, dy: f32, x: f32) -> f32 {
        dy * silu_slope(x)
    }
}

/// The Gaussian error linear unit: `y = x Phi(x)` with the normal distribution function Phi (exact,
/// by erf). The quick form is `y = x s(1.702 x)` with the sigmoid s. y' = Phi(x) + x phi(x) with
/// the normal density phi; for the quick form y' = s + 1.702 x s (1 - s) with s = s(1.702 x).
#[derive(Debug, Clone)]
pub struct Gelu {
    /// Uses the quick form.
    pub quick: bool,
}

impl Pointwise for Gelu {
    const NAMES: [&'static str; 2] = ["gelu", "gelu_vjp"];
    const FLOPS: [u64; 2] = [8, 12];
    fn value(&self, x: f32) -> f32 {
        gelu(x, self.quick)
    }
    fn gradient(&self, dy: f32, x: f32) -> f32 {
        dy * gelu_slope(x, self.quick)
    }
    fn parameters(&self) -> [f32; 2] {
        [self.quick.into(), 0.0]
    }
}

/// The rectified linear unit with a slope below 0: `y = x` for x > 0, else `slope x`. y' is 1 or the
/// slope; at 0 it is the slope.
#[derive(Debug, Clone)]
pub struct LeakyRelu {
    /// 0 for the plain rectified linear unit.
    pub slope: f32,
}

impl Pointwise for LeakyRelu {
    const NAMES: [&'static str; 2] = ["leaky_relu", "leaky_relu_vjp"];
    const FLOPS: [u64; 2] = [2, 2];
    fn value(&self, x: f32) -> f32 {
        if x > 0.0 { x } else { self.slope * x }
    }
    fn gradient(&self, dy: f32, x: f32) -> f32 {
        if x > 0.0 { dy } else { self.slope * dy }
    }
    fn parameters(&self) -> [f32; 2] {
        [self.slope, 0.0]
    }
}

/// The hyperbolic tangent: `y = 1 - 2 / (exp(2 x) + 1)`. y' = 1 - y^2.
#[derive(Debug, Clone)]
pub struct HyperbolicTangent;

impl Pointwise for HyperbolicTangent {
    const NAMES: [&'static str; 2] = ["hyperbolic_tangent", "hyperbolic_tangent_vjp"];
    const FLOPS: [u64; 2] = [8, 10];
    fn value(&self, x: f32) -> f32 {
        x.tanh()
    }
    fn gradient(&self, dy: f32, x: f32) -> f32 {
        let y = x.tanh();
        dy * (1.0 - y * y)
    }
}

/// Clamps every value: `y = min(max(x, low), high)`. Values that are not finite stay as they are,
/// so that an overflow does not look like black or white. The gradient is dy where
/// low <= x <= high, else 0.
#[derive(Debug, Clone)]
pub struct Clamp {
    /// Smallest value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
}

impl Pointwise for Clamp {
    const NAMES: [&'static str; 2] = ["clamp", "clamp_vjp"];
    const FLOPS: [u64; 2] = [2, 2];
    fn value(&self, x: f32) -> f32 {
        if x.is_finite() { x.max(self.low).min(self.high) } else { x }
    }
    fn gradient(&self, dy: f32, x: f32) -> f32 {
        if x >= self.low && x <= self.high { dy } else { 0.0 }
    }
    fn parameters(&self) -> [f32; 2] {
        [self.low, self.high]
    }
}

impl<F: Pointwise> Op for F {
    fn name(&self) -> &'static str {
        F::NAMES[0]
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 1)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[0].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        let (dout, name, x) = (r.dout(0)?, r.name(), r.input(0));
        let dx = r.graph.one(PointwiseVjp(self.clone()), &name, &[dout, x])?;
        r.give(0, dx);
        Ok(())
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        F::FLOPS[0] * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let x = launch.input_unless_in_place(0);
        map1(launch.outputs[0], x, |x| self.value(x));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (x, y, [a, b]) = (r.inputs[0], r.outputs[0], self.parameters());
        let count = y.shape.numel();
        let params = kernels::PointwiseParams { y: y.into(), x: x.into(), count, a, b };
        r.each(Kernel::named(F::NAMES[0]), count.div_ceil(4), 1, params);
        Ok(())
    }
}

impl<F: Pointwise> Op for PointwiseVjp<F> {
    fn name(&self) -> &'static str {
        F::NAMES[1]
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        expect_shape(inputs[1], inputs[0].shape)?;
        Ok(vec![Output { name: "", shape: inputs[0].shape, precision: inputs[1].precision }])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, FIRST_ORDER_ONLY)
    }
    fn flops(&self, _: &[Shape], outputs: &[Shape]) -> u64 {
        F::FLOPS[1] * outputs[0].numel() as u64
    }
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let (dy, x) = (launch.input_unless_in_place(0), launch.inputs[1]);
        map2(launch.outputs[0], dy, Some(x), |dy, x| self.0.gradient(dy, x));
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (dy, x, dx, [a, b]) = (r.inputs[0], r.inputs[1], r.outputs[0], self.0.parameters());
        let count = dx.shape.numel();
        let params = kernels::PointwiseVjpParams { dx: dx.into(), dy: dy.into(), x: x.into(), count, a, b };
        r.each(Kernel::named(F::NAMES[1]), count.div_ceil(4), 1, params);
        Ok(())
    }
}
