//! Means over photos, with their standard errors.

use serde::Serialize;

/// Mean and standard error over photos.
#[derive(Serialize, Clone, Copy, Debug)]
pub(super) struct Mean {
    pub mean: f64,
    /// Standard error of the mean; none for a single photo.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of these values; none of no values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Mean> {
        let values: Vec<f64> = values.collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let standard_error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        (!values.is_empty()).then_some(Mean { mean, standard_error })
    }

    /// The mean with its standard error, if it has one.
    pub fn shown(self, decimals: usize) -> String {
        let error = self.standard_error.map_or(String::new(), |e| format!(" ± {e:.decimals$}"));
        format!("{:.decimals$}{error}", self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let mean = Mean::of([1.0, 2.0, 6.0].into_iter()).unwrap();
        // Variance 7, divided by 3 photos.
        assert!((mean.mean - 3.0).abs() < 1e-12 && (mean.standard_error.unwrap() - (7f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean.shown(1), "3.0 ± 1.5");
        assert!(Mean::of([1.0].into_iter()).unwrap().standard_error.is_none() && Mean::of([].into_iter()).is_none());
    }
}
