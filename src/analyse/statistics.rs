//! Means, their errors, and what they decide.

use serde::Serialize;

/// A mean over independent units with its standard error and 95 % interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

impl Estimate {
    /// The mean of at least two values, with Student's interval.
    pub fn of(values: &[f64]) -> Estimate {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Estimate::with_error(mean, (variance / n).sqrt(), values.len() - 1)
    }

    /// The jackknife of a statistic: `of(None)` is its value over all of `count` units,
    /// `of(Some(i))` without unit i.
    pub fn jackknife(count: usize, of: impl Fn(Option<usize>) -> f64) -> Estimate {
        let left_out: Vec<f64> = (0..count).map(|i| of(Some(i))).collect();
        let n = count as f64;
        let centre = left_out.iter().sum::<f64>() / n;
        let variance = (n - 1.0) / n * left_out.iter().map(|v| (v - centre).powi(2)).sum::<f64>();
        Estimate::with_error(of(None), variance.sqrt(), count - 1)
    }

    /// A share of `count` trials of which `hits` succeeded, with Wilson's interval.
    pub fn share(hits: usize, count: usize) -> Estimate {
        let (n, z) = (count as f64, normal_quantile());
        let p = hits as f64 / n;
        let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        // The ends of no and of all hits are 0 and 1, which rounding misses.
        let low = if hits == 0 { 0.0 } else { centre - half };
        let high = if hits == count { 1.0 } else { centre + half };
        Estimate { mean: p, standard_error: (p * (1.0 - p) / n).sqrt(), low, high }
    }

    fn with_error(mean: f64, standard_error: f64, freedom: usize) -> Estimate {
        let half = student_quantile(freedom) * standard_error;
        Estimate { mean, standard_error, low: mean - half, high: mean + half }
    }

    /// The same of a monotone function of what was estimated; its error by the slope.
    pub fn map(self, of: impl Fn(f64) -> f64, slope: impl Fn(f64) -> f64) -> Estimate {
        Estimate {
            mean: of(self.mean),
            standard_error: self.standard_error * slope(self.mean).abs(),
            low: of(self.low),
            high: of(self.high),
        }
    }

    /// Does the number lie above `least`? Decided if its 95 % interval lies on one side.
    pub fn above(&self, least: f64) -> Verdict {
        match () {
            () if self.low > least => Verdict::Holds,
            () if self.high < least => Verdict::DoesNotHold,
            () => Verdict::NotDecided,
        }
    }
}

/// The answer of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The 95 % interval agrees with the claim.
    Holds,
    /// The 95 % interval contradicts the claim.
    DoesNotHold,
    /// The 95 % interval has room for both.
    NotDecided,
}

impl Verdict {
    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::DoesNotHold => "does not hold",
            Verdict::NotDecided => "is not decided",
        }
    }

    /// Of a claim about several cases: it holds if it holds in all, and does not hold if it fails
    /// in one.
    pub fn all(verdicts: &[Verdict]) -> Verdict {
        match () {
            () if verdicts.contains(&Verdict::DoesNotHold) => Verdict::DoesNotHold,
            () if !verdicts.is_empty() && verdicts.iter().all(|v| *v == Verdict::Holds) => Verdict::Holds,
            () => Verdict::NotDecided,
        }
    }
}

/// The 0.975 quantile of the normal distribution.
fn normal_quantile() -> f64 {
    1.959_963_984_540_054
}

/// The 0.975 quantile of Student's distribution: exact for 1 to 3 degrees of freedom, else the
/// Cornish-Fisher expansion, whose error is below 0.01 at 4 degrees and falls with its fourth
/// power.
fn student_quantile(freedom: usize) -> f64 {
    let (z, n) = (normal_quantile(), freedom as f64);
    match freedom {
        0 => f64::INFINITY,
        1 => 12.706_204_736,
        2 => 4.302_652_730,
        3 => 3.182_446_305,
        _ => {
            let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
            let first = (z3 + z) / 4.0;
            let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / 96.0;
            let third = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / 384.0;
            z + first / n + second / (n * n) + third / n.powi(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, quantile) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045)] {
            assert!((student_quantile(freedom) - quantile).abs() < 0.01, "{freedom}");
        }
    }

    #[test]
    fn an_interval_decides_only_beyond_its_ends() {
        let e = Estimate::of(&[1.0, 2.0, 3.0, 2.0]);
        assert!((e.mean - 2.0).abs() < 1e-12 && (e.standard_error - (2.0f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!([0.5, 2.5, 3.5].map(|v| e.above(v)), [Verdict::Holds, Verdict::NotDecided, Verdict::DoesNotHold]);
        let mean = |left: Option<usize>| {
            let kept: Vec<f64> = (0..4).filter(|i| Some(*i) != left).map(|i| [1.0, 2.0, 3.0, 2.0][i]).collect();
            kept.iter().sum::<f64>() / kept.len() as f64
        };
        // The jackknife of a mean is its usual error.
        assert!((Estimate::jackknife(4, mean).standard_error - e.standard_error).abs() < 1e-12);
        // Wilson's interval for 9 of 10 is 0.596 to 0.982.
        let share = Estimate::share(9, 10);
        assert!((share.low - 0.596).abs() < 1e-3 && (share.high - 0.982).abs() < 1e-3);
    }
}
