//! A batch on its way, and what a method does with it.

use crate::error::Result;
use crate::executor::Executor;

/// A batch on the host.
pub struct Chain {
    /// x_T, and later whatever x was last asked for, in VP coordinates, (n, h, w, c).
    pub x: Vec<f32>,
    /// Measurements, one after the other.
    pub y: Vec<f32>,
    /// Operator states, one after the other.
    pub state: Vec<f32>,
    /// Weights of a whitened residual, one measurement after the other.
    pub whitening: Vec<f32>,
    /// Class labels of a conditional model.
    pub labels: Vec<f32>,
    /// Seed and sample number of each item.
    pub seeds: Vec<(u64, u32)>,
    /// Norm of the noise in each measurement, 0 where unknown.
    pub noise_norm: Vec<f32>,
    /// Residual norm of each item at the last gradient.
    pub residual: Vec<f32>,
}

/// One method, ready to step.
pub trait Sampler: Send {
    /// Takes a batch over to the device: x_T, measurements, labels. x stays there from step to step.
    fn begin(&mut self, chain: &Chain) -> Result<()>;
    /// From level `i` to the level before it. Leaves the residuals in `chain`.
    fn step(&mut self, i: usize, chain: &mut Chain) -> Result<()>;
    /// x as the last step left it.
    fn read_x(&self, x: &mut [f32]) -> Result<()>;
    /// What runs.
    fn executors(&self) -> Vec<&Executor>;
    /// Fills the arena with NaN before each run from now on.
    fn set_poison(&mut self, on: bool);
}
