//! Measurements: an operator applied to an image, and its noise.

use crate::backend::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, TensorId};
use crate::image::Picture;
use crate::noise::{Draw, NoiseKey, Stream, fill_normal};
use crate::operator::{Observed, Operator};
use crate::tensor::Shape;
use crate::weights::Weights;
use std::fmt;
use std::str::FromStr;

/// The measurement of one image, with the state of its operator.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Measurement {
    /// y in [-1, 1] plus noise, (h, w, c).
    pub y: Vec<f32>,
    /// Mask or kernel; empty for operators without a state.
    pub state: Vec<f32>,
    /// Expected norm of the noise in y, in [-1, 1] units, as [`Noise::expected_norm`] computes it;
    /// 0 where unknown. Polyak's steps aim at this residual norm and not lower, so that noise is
    /// not fitted.
    pub noise_norm: f64,
}

/// Standard deviation of the error of rounding to 8 bits, in [-1, 1] units: one level over
/// sqrt(12). No noise is taken to be smaller.
pub(super) const ROUNDING: f64 = 2.0 / 255.0 * 0.288_675;

impl Measurement {
    /// A measurement `y` in [-1, 1] plus noise, with the `state` of its operator. `noise_norm` is
    /// the expected norm of the noise, 0 where unknown.
    pub fn new(y: Vec<f32>, state: Vec<f32>, noise_norm: f64) -> Measurement {
        Measurement { y, state, noise_norm }
    }

    /// Variance of the noise per observed value of an image of shape `image` (n = 1), at least the variance of rounding to 8 bits.
    pub fn noise_variance(&self, operator: &dyn Operator, image: Shape) -> f64 {
        let observed = operator.observed(image, &self.state);
        let count = (0..self.y.len()).filter(|&i| observed.includes(i, self.y.len())).count();
        (self.noise_norm.powi(2) / count.max(1) as f64).max(ROUNDING.powi(2))
    }

    /// || A(x) - y || of an image of shape `image` (n = 1).
    pub fn residual(&self, operator: &dyn Operator, image: Shape, x: &Picture) -> Result<f64> {
        let seen = Measurer::new(operator, image)?.apply(&x.values, &self.state)?;
        Ok(seen.iter().zip(&self.y).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt())
    }

    /// Measures the image `x` of shape `image` (n = 1) and adds noise. The seed determines the
    /// noise and a drawn mask or kernel. Also gives the norm of the drawn noise.
    pub fn simulate(
        operator: &dyn Operator,
        image: Shape,
        x: &[f32],
        noise: Noise,
        seed: u64,
    ) -> Result<(Measurement, f64)> {
        simulate(operator, image, x, |y, observed| noise.apply(y, seed, observed), noise, seed)
    }

    /// As [`Measurement::simulate`], for an image whose channels are equal. Where the operator keeps
    /// them equal, all channels of y get the same noise, so that they stay equal. An operator that
    /// looks at channels in different ways, such as `demosaic`, gets the noise of any image.
    pub fn simulate_grey(
        operator: &dyn Operator,
        image: Shape,
        x: &[f32],
        noise: Noise,
        seed: u64,
    ) -> Result<(Measurement, f64)> {
        let channels = operator.measurement_shape(image).c;
        let one_for_all = |y: &mut [f32], observed: Observed<'_>| {
            let is_grey = has_equal_channels(y, observed, channels);
            noise.apply(y, seed, observed);
            if is_grey {
                y.chunks_mut(channels).for_each(|pixel| pixel.fill(pixel[0]));
            }
        };
        simulate(operator, image, x, one_for_all, noise, seed)
    }
}

/// True if the channels of every pixel have one value, up to rounding, and are all observed or all
/// missing.
fn has_equal_channels(y: &[f32], observed: Observed<'_>, channels: usize) -> bool {
    const ROUNDING_OF_SUMS: f32 = 1e-5;
    let is_observed = |i: usize| observed.includes(i, y.len());
    (0..y.len()).all(|i| {
        let first = i - i % channels;
        (y[i] - y[first]).abs() <= ROUNDING_OF_SUMS && is_observed(i) == is_observed(first)
    })
}

fn simulate(
    operator: &dyn Operator,
    image: Shape,
    x: &[f32],
    add: impl Fn(&mut [f32], Observed<'_>),
    noise: Noise,
    seed: u64,
) -> Result<(Measurement, f64)> {
    let state = operator.draw_state(image, seed)?;
    let clean = Measurer::new(operator, image)?.apply(x, &state)?;
    let mut y = clean.clone();
    add(&mut y, operator.observed(image, &state));
    let drawn = y.iter().zip(&clean).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let noise_norm = noise.expected_norm(&y, operator.observed(image, &state));
    Ok((Measurement { y, state, noise_norm }, drawn))
}

/// Applies an operator to images on the CPU, for measurements and for final residuals.
pub struct Measurer {
    executor: Executor,
    x: TensorId,
    y: TensorId,
    state: Option<TensorId>,
}

impl Measurer {
    /// For single images of shape `image`; n is taken as 1.
    pub fn new(operator: &dyn Operator, image: Shape) -> Result<Measurer> {
        let image = Shape { n: 1, ..image };
        operator.check(image)?;
        let mut g = Graph::new();
        let x = g.input("x", image);
        let state = operator.state_shape(image).map(|s| g.input("state", s));
        let y = operator.build(&mut g, x, state)?;
        // A copy: if the operator is the identity, the graph's input would be its output.
        let y = g.one(crate::ops::add::Scale { scale: 1.0 }, "y", &[y])?;
        g.output(y);
        let executor = Executor::new(g, &PlanOptions::default(), &Weights::none(), &Device::cpu())?;
        Ok(Measurer { executor, x, y, state })
    }

    /// A(x) of one image. `state` is the mask or kernel, empty for operators without one.
    pub fn apply(&mut self, x: &[f32], state: &[f32]) -> Result<Vec<f32>> {
        self.executor.write(self.x, x)?;
        if let Some(id) = self.state {
            self.executor.write(id, state)?;
        }
        self.executor.run()?;
        self.executor.read(self.y)
    }

    /// Shape of y (n = 1).
    pub fn measurement_shape(&self) -> Shape {
        self.executor.graph().shape(self.y)
    }
}

/// Noise of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Noise {
    /// Normal noise with this standard deviation in [0, 1] units, which is twice as large in [-1,
    /// 1] units.
    Gaussian(f64),
    /// Photon counts at `255 rate` per unit of [0, 1]; negative values count as 0.
    Poisson(f64),
}

/// That of photos if nothing is said: 0.025.
impl Default for Noise {
    fn default() -> Noise {
        Noise::Gaussian(0.025)
    }
}

impl FromStr for Noise {
    type Err = Error;

    /// `0.025`, or `poisson:0.5`.
    fn from_str(text: &str) -> Result<Noise> {
        let (value, poisson) = text.strip_prefix("poisson:").map_or((text, false), |rate| (rate, true));
        match value.parse::<f64>() {
            Ok(rate) if poisson && rate > 0.0 && rate.is_finite() => Ok(Noise::Poisson(rate)),
            Ok(sigma) if !poisson && (0.0..=10.0).contains(&sigma) => Ok(Noise::Gaussian(sigma)),
            _ => Err(Error::Invalid(format!(
                "noise {text}: write a standard deviation in [0,1] units such as 0.025, or poisson:RATE"
            ))),
        }
    }
}

/// As it is typed.
impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Noise::Gaussian(sigma) => write!(f, "{sigma}"),
            Noise::Poisson(rate) => write!(f, "poisson:{rate}"),
        }
    }
}

impl Noise {
    /// Standard deviation in [0, 1] units, of Poisson noise at middle grey; at least that of
    /// rounding to 8 bits.
    pub fn usual_sigma(self) -> f64 {
        let sigma = match self {
            Noise::Gaussian(sigma) => sigma,
            Noise::Poisson(rate) => (0.5 / (255.0 * rate)).sqrt(),
        };
        sigma.max(ROUNDING / 2.0)
    }

    /// Expected norm of the noise over the observed values of y, in [-1, 1] units.
    pub fn expected_norm(self, y: &[f32], observed: Observed<'_>) -> f64 {
        let variance = |v: f32| match self {
            Noise::Gaussian(sigma) => 4.0 * sigma * sigma,
            Noise::Poisson(rate) => 4.0 * ((f64::from(v) + 1.0) / 2.0).clamp(0.0, 1.0) / (255.0 * rate),
        };
        (0..y.len()).filter(|&i| observed.includes(i, y.len())).map(|i| variance(y[i])).sum::<f64>().sqrt()
    }

    /// Adds the noise to y in [-1, 1]. Values that were not measured (masked pixels) stay as they
    /// are.
    pub fn apply(self, y: &mut [f32], seed: u64, observed: Observed<'_>) {
        let len = y.len();
        let key = NoiseKey { seed, image: 0, step: 0, draw: Draw::Measurement };
        match self {
            Noise::Gaussian(sigma) => {
                let mut noise = vec![0.0; y.len()];
                fill_normal(&key.to_words(), 0, &mut noise);
                for (_, (y, n)) in y.iter_mut().zip(noise).enumerate().filter(|(i, _)| observed.includes(*i, len)) {
                    *y += 2.0 * sigma as f32 * n;
                }
            }
            Noise::Poisson(rate) => {
                let mut random = Stream::new(key);
                let scale = 255.0 * rate;
                for (i, y) in y.iter_mut().enumerate() {
                    let mean = ((f64::from(*y) + 1.0) / 2.0).clamp(0.0, 1.0) * scale;
                    let count = random.poisson(mean);
                    if observed.includes(i, len) {
                        *y = (count / scale * 2.0 - 1.0).clamp(-1.0, 1.0) as f32;
                    }
                }
            }
        }
    }
}
