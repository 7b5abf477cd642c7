//! A batch of measurements in host memory.

use super::trace::Trace;
use crate::noise::{Draw, KEY_WORDS, NoiseKey};

/// A batch of measurements in host memory. Each field holds the values of all items, one item after
/// the other.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// x before the first step, later x as it was last read from the device: (n, h, w, c) of the
    /// canvas, in VP coordinates.
    pub x: Vec<f32>,
    /// Measurements y, in [-1, 1] plus noise.
    pub y: Vec<f32>,
    /// Condition images of the conditional score estimator, in [-1, 1]; empty if no phase reads
    /// them.
    pub condition: Vec<f32>,
    /// Operator states (masks or kernels).
    pub state: Vec<f32>,
    /// Weights of the whitened residual, one per frequency; empty if no residual is whitened.
    pub whitening: Vec<f32>,
    /// Squared singular values of an operator with a state, one per coefficient of its spectrum;
    /// empty if no phase reads them.
    pub power: Vec<f32>,
    /// Class labels of a conditional model.
    pub labels: Vec<f32>,
    /// Seed and sample number of each item.
    pub seeds: Vec<(u64, u32)>,
    /// Expected norm of the noise in each measurement, 0 where unknown.
    pub noise_norm: Vec<f32>,
    /// Standard deviation of the noise in each measurement, in [-1, 1] units, at least the error of
    /// rounding to 8 bits.
    pub noise_sigma: Vec<f64>,
    /// True for items whose optimisation is done: their states no longer change.
    pub is_frozen: Vec<bool>,
    /// Residual norm of each item, as it was last reported.
    pub residual: Vec<f32>,
    /// What a traced run keeps of its last step; none for a run that is not traced.
    pub trace: Option<Trace>,
}

impl Batch {
    /// The noise keys of step `step` for the purpose `draw`, one per item, as bit patterns in f32.
    pub(super) fn keys(&self, step: usize, draw: Draw) -> Vec<f32> {
        let words = |&(seed, image): &(u64, u32)| NoiseKey { seed, image, step: step as u32, draw }.to_words();
        let keys: Vec<f32> = self.seeds.iter().flat_map(words).map(f32::from_bits).collect();
        debug_assert_eq!(keys.len(), self.seeds.len() * KEY_WORDS);
        keys
    }
}
