//! The comparison that all checks use: first lengths, then NaN and infinity, then errors.

/// The result of a comparison within its limit.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Largest absolute error.
    pub worst: f64,
    /// Largest error divided by the limit.
    pub share: f64,
}

/// Compares `found` with `expected`: every absolute error must be at most `limit`. The message of a
/// failure names the worst position, both values and the error relative to the limit.
pub fn compare(what: &str, found: &[f32], expected: &[f64], limit: f64) -> Result<Agreement, String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} values, expected {}", found.len(), expected.len()));
    }
    if let Some(i) = found.iter().position(|v| !v.is_finite()) {
        return Err(format!("{what}: {} at {i}, expected {:.6e}", found[i], expected[i]));
    }
    if let Some(i) = expected.iter().position(|v| !v.is_finite()) {
        return Err(format!("{what}: the reference is {} at {i}", expected[i]));
    }
    let errors = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs());
    let (at, worst) = errors.enumerate().fold((0, 0.0), |w, (i, e)| if e > w.1 { (i, e) } else { w });
    let share = worst / limit;
    // The condition is written so that a NaN limit fails.
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    if !(worst <= limit) {
        return Err(format!(
            "{what}: {:.7e} at {at}, expected {:.7e}: error {worst:.2e} is {:.0} % of the limit",
            found[at],
            expected[at],
            100.0 * share
        ));
    }
    Ok(Agreement { worst, share })
}

/// `||found - expected|| / ||expected||`; NaN if any value is not finite.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |f: &dyn Fn(usize) -> f64| (0..expected.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    square(&|i| f64::from(found[i]) - f64::from(expected[i])) / square(&|i| f64::from(expected[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_disagreement_is_seen() {
        assert!(compare("equal", &[1.0, 2.0], &[1.0, 2.0], 0.0).is_ok());
        assert!(compare("near", &[1.0, 2.01], &[1.0, 2.0], 0.02).is_ok_and(|a| a.share > 0.4 && a.share < 0.6));
        for (found, expected, limit) in [
            (vec![1.0, 2.01], vec![1.0, 2.0], 0.001),
            (vec![1.0], vec![1.0, 2.0], 1.0),
            (vec![f32::NAN, 2.0], vec![1.0, 2.0], 1.0),
            (vec![1.0, f32::INFINITY], vec![1.0, 2.0], f64::INFINITY),
            (vec![1.0, 2.0], vec![1.0, f64::NAN], 1.0),
            (vec![1.0, 2.0], vec![1.0, 2.0], f64::NAN),
        ] {
            assert!(compare("wrong", &found, &expected, limit).is_err(), "{found:?}");
        }
        let message = compare("x", &[0.0, 5.0], &[0.0, 3.0], 1.0).unwrap_err();
        assert!(message.contains("at 1") && message.contains("200 %"), "{message}");
    }
}
