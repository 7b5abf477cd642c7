//! PSNR and SSIM.

use crate::error::{Error, Result};
use crate::image::Picture;

/// The channels that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channels {
    /// 0.299 R + 0.587 G + 0.114 B (BT.601, full range), not rounded.
    Luma,
    /// Red, green and blue: PSNR of all values together, the mean of the SSIM of each channel.
    Colour,
}

/// The values that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// Rounded to 0..=255, as a file has them. The range of the data is 255.
    EightBit,
    /// Mapped from [-1, 1] to [0, 1], neither rounded nor clamped. The range of the data is 1.
    Float,
}

/// What is compared of two pictures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// The channels.
    pub channels: Channels,
    /// The values.
    pub values: Values,
    /// Pixels that are left out at each of the four sides, before anything is computed.
    pub border: usize,
}

impl Comparison {
    /// Eight bits of all channels of whole pictures.
    pub const COLOUR: Comparison = Comparison { channels: Channels::Colour, values: Values::EightBit, border: 0 };
    /// Eight bits of the luma of whole pictures.
    pub const LUMA: Comparison = Comparison { channels: Channels::Luma, ..Comparison::COLOUR };

    /// The same without a border of so many pixels.
    pub fn border(self, border: usize) -> Comparison {
        Comparison { border, ..self }
    }

    /// The same of these values.
    pub fn values(self, values: Values) -> Comparison {
        Comparison { values, ..self }
    }

    /// Peak signal-to-noise ratio in dB: 10 log10(range^2 / mean squared error). Infinite for equal
    /// pictures. It equals `peak_signal_noise_ratio` of scikit-image. Fails if the pictures differ
    /// in size or are nothing but border.
    pub fn psnr(&self, a: &Picture, b: &Picture) -> Result<f64> {
        let planes = self.planes(a, b)?.pairs;
        let count: usize = planes.iter().map(|[a, _]| a.len()).sum();
        let squares: f64 = planes.iter().flat_map(|[a, b]| a.iter().zip(b)).map(|(a, b)| (a - b).powi(2)).sum();
        Ok(10.0 * (self.range().powi(2) * count as f64 / squares).log10())
    }

    /// Structural similarity (Wang et al. 2004), at most 1. The window is a Gaussian of 11 pixels
    /// with sigma 1.5, at all positions where it lies inside the picture; k1 = 0.01, k2 = 0.03;
    /// variances are divided by the number of pixels. It equals `structural_similarity` of
    /// scikit-image with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False` and, for
    /// colour, `channel_axis`. A picture of less than 11 pixels, which scikit-image refuses, gets
    /// the largest odd window that fits. Fails if the pictures differ in size or are nothing but
    /// border.
    pub fn ssim(&self, a: &Picture, b: &Picture) -> Result<f64> {
        let Planes { size, pairs } = self.planes(a, b)?;
        let sum: f64 = pairs.iter().map(|[a, b]| ssim_of_plane(size, self.range(), a, b)).sum();
        Ok(sum / pairs.len() as f64)
    }

    fn range(&self) -> f64 {
        match self.values {
            Values::EightBit => 255.0,
            Values::Float => 1.0,
        }
    }

    fn planes(&self, a: &Picture, b: &Picture) -> Result<Planes> {
        let inner = |p: &Picture| without_border(p, self.border);
        if (a.width, a.height) != (b.width, b.height) {
            let reason = format!("pictures of {}x{} and {}x{} pixels", a.width, a.height, b.width, b.height);
            return Err(Error::Invalid(format!("{reason} can't be compared: give pictures of one size")));
        }
        let (a, b) = (inner(a)?, inner(b)?);
        let pairs = self.planes_of(&a).into_iter().zip(self.planes_of(&b)).map(|(a, b)| [a, b]).collect();
        Ok(Planes { size: (a.width, a.height), pairs })
    }

    fn planes_of(&self, p: &Picture) -> Vec<Vec<f64>> {
        let values: Vec<f64> = match self.values {
            Values::EightBit => p.to_rgb8().into_raw().into_iter().map(f64::from).collect(),
            Values::Float => p.values.iter().map(|&v| 0.5 * f64::from(v) + 0.5).collect(),
        };
        match self.channels {
            Channels::Luma => {
                vec![values.chunks_exact(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect()]
            }
            Channels::Colour => (0..3).map(|c| values.iter().skip(c).step_by(3).copied().collect()).collect(),
        }
    }
}

/// What is compared of two pictures without their border.
struct Planes {
    /// Width and height.
    size: (usize, usize),
    /// The values of each channel in both pictures.
    pairs: Vec<[Vec<f64>; 2]>,
}

/// The picture without `border` pixels at each side. Fails if nothing is left.
pub(super) fn without_border(p: &Picture, border: usize) -> Result<Picture> {
    if 2 * border >= p.width.min(p.height) {
        return Err(Error::Invalid(format!(
            "a border of {border} pixels leaves nothing of a picture of {}x{} pixels",
            p.width, p.height
        )));
    }
    Ok(p.part(border, border, p.width - 2 * border, p.height - 2 * border))
}

/// PSNR of all channels in 8 bits, in dB, as results report it. Infinite for equal pictures.
///
/// # Panics
///
/// If the pictures differ in size.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    Comparison::COLOUR.psnr(a, b).expect("pictures of one size")
}

/// SSIM of the luma in 8 bits, as results report it.
///
/// # Panics
///
/// If the pictures differ in size.
pub fn ssim(a: &Picture, b: &Picture) -> f64 {
    Comparison::LUMA.ssim(a, b).expect("pictures of one size")
}

fn ssim_of_plane((w, h): (usize, usize), range: f64, x: &[f64], y: &[f64]) -> f64 {
    let radius = 5.min((w.min(h) - 1) / 2);
    let weights: Vec<f64> =
        (0..=2 * radius).map(|i| (-0.5 * ((i as f64 - radius as f64) / 1.5).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    // Separable weighted mean over the valid positions.
    let mean = |x: &[f64]| -> Vec<f64> {
        let (ow, oh) = (w - 2 * radius, h - 2 * radius);
        let mut narrow = vec![0.0; ow * h];
        for i in 0..h {
            for j in 0..ow {
                narrow[i * ow + j] = weights.iter().enumerate().map(|(k, g)| g * x[i * w + j + k]).sum::<f64>() / total;
            }
        }
        let mut out = vec![0.0; ow * oh];
        for i in 0..oh {
            for j in 0..ow {
                out[i * ow + j] =
                    weights.iter().enumerate().map(|(k, g)| g * narrow[(i + k) * ow + j]).sum::<f64>() / total;
            }
        }
        out
    };
    let product = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let (mx, my) = (mean(x), mean(y));
    let (xx, yy, xy) = (mean(&product(x, x)), mean(&product(y, y)), mean(&product(x, y)));
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let values = (0..mx.len()).map(|i| {
        let (vx, vy, cov) = (xx[i] - mx[i] * mx[i], yy[i] - my[i] * my[i], xy[i] - mx[i] * my[i]);
        ((2.0 * mx[i] * my[i] + c1) * (2.0 * cov + c2)) / ((mx[i] * mx[i] + my[i] * my[i] + c1) * (vx + vy + c2))
    });
    values.sum::<f64>() / mx.len() as f64
}
#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(offset: f32) -> Picture {
        let values = (0..32 * 24 * 3).map(|i| (i % 96) as f32 / 96.0 - 0.5 + offset).collect();
        Picture { width: 32, height: 24, values }
    }

    #[test]
    fn psnr_of_a_known_difference() {
        // A difference of one grey level everywhere: 20 log10(255) = 48.13 dB.
        let (a, b) = (ramp(0.0), ramp(2.0 / 255.0));
        assert!((psnr(&a, &b) - 48.1308).abs() < 1e-3);
        assert!(psnr(&a, &a).is_infinite());
    }

    #[test]
    fn ssim_is_one_for_equal_pictures_and_falls_with_noise() {
        let a = ramp(0.0);
        let mut b = a.clone();
        b.values.iter_mut().enumerate().for_each(|(i, v)| *v += if i * 7 % 13 < 6 { 0.2 } else { -0.2 });
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-12);
        let s = ssim(&a, &b);
        assert!(s > 0.0 && s < 0.8, "{s}");
    }
}
