//! Similarity of a restored picture to the truth.

use crate::image::Picture;

/// Peak signal-to-noise ratio in dB, after both pictures are rounded to 8 bits. Infinite for equal
/// pictures.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    let (a, b) = (a.to_rgb8(), b.to_rgb8());
    let count = a.as_raw().len() as f64;
    let squares: f64 = a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * count / squares).log10()
}

/// Structural similarity (Wang et al. 2004) of the luma. The window is a Gaussian of 11 pixels with
/// sigma 1.5, at all positions where it lies inside the picture; k1 = 0.01, k2 = 0.03.
pub fn ssim(a: &Picture, b: &Picture) -> f64 {
    let (w, h) = (a.width, a.height);
    let radius = 5.min((w.min(h) - 1) / 2);
    let luma = |p: &Picture| -> Vec<f64> {
        let rgb = p.to_rgb8();
        rgb.pixels().map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2])).collect()
    };
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
    let (x, y) = (luma(a), luma(b));
    let (mx, my) = (mean(&x), mean(&y));
    let (xx, yy, xy) = (mean(&product(&x, &x)), mean(&product(&y, &y)), mean(&product(&x, &y)));
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
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
