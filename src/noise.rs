//! Counter-based random numbers: Philox4x32-10 and Box-Muller.
//!
//! A value depends only on (seed, image, step, draw, element) and not on the batch, the order of
//! calls or the device. So a seed gives the same image everywhere, up to rounding. Philox: Salmon
//! et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.

use rayon::prelude::*;

/// Identifies a stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseKey {
    /// The user's seed.
    pub seed: u64,
    /// Index of the sample of an image.
    pub image: u32,
    /// Step of the sampler.
    pub step: u32,
    /// Purpose of the numbers.
    pub draw: Draw,
}

/// The purpose of random numbers; each purpose has its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The start of sampling, x_T.
    Start,
    /// Noise of the ancestral step.
    Ancestral,
    /// Noise of the measurement.
    Measurement,
    /// Random state of an operator: mask or blur kernel.
    Operator,
    /// The sample from an encoder's Gaussian.
    Encoder,
    /// Noise that takes a sample back to the preceding noise level.
    Travel,
    /// Noise of a training image.
    Training,
    /// The choice of a training image: photograph, crop, colours, noise level.
    Augmentation,
    /// A signal of a prior whose posterior is known, with its measurement.
    Signal,
    /// A chain, or a draw of the posterior, of such a prior.
    Analysis,
    /// Sample j of an estimate of x_0.
    Estimate(u32),
    /// A purpose in a repeated pass at one level: its word, and the number of the pass, from 1 on.
    Repeated(u32, u32),
}

impl Draw {
    /// The word that distinguishes this stream from others.
    pub fn word(self) -> u32 {
        match self {
            Draw::Start => 0,
            Draw::Ancestral => 1,
            Draw::Measurement => 2,
            Draw::Operator => 3,
            Draw::Encoder => 4,
            Draw::Travel => 5,
            Draw::Training => 6,
            Draw::Augmentation => 7,
            Draw::Signal => 8,
            Draw::Analysis => 9,
            Draw::Estimate(j) => 0x100 + j,
            Draw::Repeated(word, round) => word + (round << 16),
        }
    }

    /// The same purpose in pass `round` of a level; the first pass is 0.
    pub fn round(self, round: u32) -> Draw {
        if round == 0 { self } else { Draw::Repeated(self.word(), round) }
    }
}

/// Number of 32-bit words of a [`NoiseKey`] on a device.
pub const KEY_WORDS: usize = 5;

impl NoiseKey {
    /// The key in a device tensor: bit patterns, not values.
    pub fn to_words(self) -> [u32; KEY_WORDS] {
        [self.seed as u32, (self.seed >> 32) as u32, self.image, self.step, self.draw.word()]
    }
}

/// Ten rounds of Philox4x32.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Four random words for elements `4 block .. 4 block + 4`.
#[inline(always)]
pub fn random_words(key: &[u32; KEY_WORDS], block: u32) -> [u32; 4] {
    philox([block, key[2], key[3], key[4]], [key[0], key[1]])
}

/// A uniform number in (0, 1) from one word, symmetric about 1/2.
#[inline(always)]
pub fn uniform(word: u32) -> f32 {
    ((word >> 8) as f32 + 0.5) * (1.0 / 16_777_216.0)
}

/// Two standard normal numbers from two words (Box-Muller).
#[inline(always)]
pub fn box_muller(a: u32, b: u32) -> (f32, f32) {
    let radius = (-2.0 * uniform(a).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * uniform(b)).sin_cos();
    (radius * cos, radius * sin)
}

/// Fills `out` with the standard normal numbers of the elements from `first` on; `first` is a
/// multiple of 4.
pub fn fill_normal(key: &[u32; KEY_WORDS], first: usize, out: &mut [f32]) {
    /// Values per parallel task.
    const CHUNK: usize = 1 << 16;
    debug_assert_eq!(first % 4, 0);
    if out.len() > CHUNK {
        let chunks = out.par_chunks_mut(CHUNK).enumerate();
        return chunks.for_each(|(k, values)| fill_normal(key, first + k * CHUNK, values));
    }
    for (k, values) in out.chunks_mut(4).enumerate() {
        let w = random_words(key, (first / 4 + k) as u32);
        let ((a, b), (c, d)) = (box_muller(w[0], w[1]), box_muller(w[2], w[3]));
        values.copy_from_slice(&[a, b, c, d][..values.len()]);
    }
}

/// A sequence of random numbers on the host: for masks, blur kernels and Poisson noise.
pub struct Stream {
    key: [u32; KEY_WORDS],
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of `key`, from its start.
    pub fn new(key: NoiseKey) -> Self {
        Stream { key: key.to_words(), block: 0, words: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = random_words(&self.key, self.block);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// A uniform number in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        (f64::from(self.word()) + 0.5) / 4_294_967_296.0
    }

    /// A uniform whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A Poisson number with the given mean: Knuth's product for small means, else a rounded normal
    /// number (from a mean of 50 on, its error is below 1 % of the standard deviation).
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let limit = (-mean).exp();
        let (mut count, mut product) = (0.0, self.uniform());
        while product > limit {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal_distribution() {
        let key = NoiseKey { seed: 7, image: 0, step: 3, draw: Draw::Start }.to_words();
        let mut x = vec![0f32; 1 << 18];
        fill_normal(&key, 0, &mut x);
        let moment = |k: i32| x.iter().map(|&v| (v as f64).powi(k)).sum::<f64>() / x.len() as f64;
        // Standard errors of the moments at 2^18 draws: 0.002, 0.003, 0.008, 0.02.
        assert!(moment(1).abs() < 0.008 && (moment(2) - 1.0).abs() < 0.012);
        assert!(moment(3).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.08);
        let mut tail = vec![0f32; 1001];
        fill_normal(&key, 4096, &mut tail);
        assert_eq!(tail[..], x[4096..5097], "a part is the same as the whole");
    }

    #[test]
    fn poisson_has_its_mean_and_variance() {
        for mean in [0.5, 12.0, 49.0, 51.0, 200.0] {
            let mut s = Stream::new(NoiseKey { seed: 1, image: 0, step: 0, draw: Draw::Measurement });
            let x: Vec<f64> = (0..20_000).map(|_| s.poisson(mean)).collect();
            let m = x.iter().sum::<f64>() / 2e4;
            let v = x.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / 2e4;
            assert!((m / mean - 1.0).abs() < 0.04 && (v / mean - 1.0).abs() < 0.06, "{mean}: {m} {v}");
        }
    }
}
