//! Scalar functions that several ops use.

/// exp(x) with an error of at most 2 units in the last place. It has no branch, so that loops over
/// it vectorise.
///
/// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2; a polynomial of degree 6 for
/// exp(r).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the integer in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4; // ln 2 in two parts
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(e.to_bits()))
}

/// 1 / (1 + exp(-x))
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + exp(-x))
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// d silu / dx
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// The standard normal distribution function.
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The Gaussian error linear unit: exact, or the quick form x s(1.702 x) with the sigmoid s.
pub fn gelu(x: f32, quick: bool) -> f32 {
    if quick { x * sigmoid(1.702 * x) } else { x * phi(x) }
}

/// d gelu / dx
pub fn gelu_slope(x: f32, quick: bool) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    if quick {
        let s = sigmoid(1.702 * x);
        return s + 1.702 * x * s * (1.0 - s);
    }
    phi(x) + x * DENSITY * (-0.5 * x * x).exp()
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_accurate_over_its_range() {
        let worst = (-8600..8800)
            .map(|i| i as f32 * 0.01)
            .map(|x| ((super::exp(x) as f64 / (x as f64).exp()) - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "relative error {worst}");
    }
}
