//! What a page shows of the steps of a chain.

use crate::image::Picture;

/// Number of noise levels whose estimate is shown.
const ESTIMATES: usize = 6;

/// What is known of the steps of one chain, one entry per step.
#[derive(Clone, Debug, Default)]
pub struct StepLog {
    /// Noise level at the start of the step.
    pub sigmas: Vec<f64>,
    /// Length of the change of x, root mean square over the values.
    pub changes: Vec<f64>,
    /// Length of the steps against the gradient, likewise; empty if the method takes none.
    pub descents: Vec<f64>,
    /// Seconds of the step.
    pub seconds: Vec<f64>,
    /// Estimates of the clean image: number of the step, from 1, and the picture.
    pub estimates: Vec<(usize, Picture)>,
}

impl StepLog {
    /// True if the estimate of step `step`, from 1, of `steps` is one of about six that are spread
    /// evenly over the steps, the first and the last among them.
    pub fn shows(step: usize, steps: usize) -> bool {
        let most = ESTIMATES.min(steps);
        (0..most).any(|k| step == 1 + (k * (steps - 1) + (most - 1) / 2) / (most - 1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_six_estimates_are_spread_over_the_steps() {
        let shown = |steps| (1..=steps).filter(|&s| StepLog::shows(s, steps)).collect::<Vec<_>>();
        assert_eq!(shown(1), [1]);
        assert_eq!(shown(3), [1, 2, 3]);
        assert_eq!(shown(11), [1, 3, 5, 7, 9, 11]);
        assert_eq!(shown(100), [1, 21, 41, 60, 80, 100]);
    }
}
