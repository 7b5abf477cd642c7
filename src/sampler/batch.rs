//! A batch of measurements on the host.

use crate::noise::{Draw, KEY_WORDS, NoiseKey};

/// A batch of measurements on the host, one item after the other.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// x at the start, and later whatever x was last asked for, in VP coordinates, (n, h, w, c).
    pub x: Vec<f32>,
    /// Measurements.
    pub y: Vec<f32>,
    /// Operator states.
    pub state: Vec<f32>,
    /// Weights of a whitened residual.
    pub whitening: Vec<f32>,
    /// Class labels of a conditional model.
    pub labels: Vec<f32>,
    /// Seed and sample number of each item.
    pub seeds: Vec<(u64, u32)>,
    /// Norm of the noise in each measurement, 0 where unknown.
    pub noise_norm: Vec<f32>,
    /// Standard deviation of the noise in each measurement, at least that of rounding to 8 bits.
    pub noise_deviation: Vec<f64>,
    /// Items that an optimisation is done with: their states stay as they are.
    pub is_frozen: Vec<bool>,
    /// Residual norm of each item at the last gradient.
    pub residual: Vec<f32>,
}

impl Batch {
    /// The keys of the noise that step `step` draws for a purpose, as a device tensor stores them.
    pub(super) fn keys(&self, step: usize, draw: Draw) -> Vec<f32> {
        let words = |&(seed, image): &(u64, u32)| NoiseKey { seed, image, step: step as u32, draw }.to_words();
        let keys: Vec<f32> = self.seeds.iter().flat_map(words).map(f32::from_bits).collect();
        debug_assert_eq!(keys.len(), self.seeds.len() * KEY_WORDS);
        keys
    }
}
