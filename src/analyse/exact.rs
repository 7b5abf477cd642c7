//! The analyses of priors whose posterior is known.

use super::options::{Finding, Options};
use super::problem::Problem;
use super::report::{Report, Row};
use super::samples::{samples, settings};
use super::work::Watch;
use super::{calibration, diversity, score_error, score_mean};
use crate::error::Result;

/// Measures a finding on a problem whose posterior is known. The error is
/// [`Error::Cancelled`](crate::Error::Cancelled) if `watch` stops the work.
pub fn analyse(problem: &Problem, finding: Finding, options: &Options, watch: Watch<'_>) -> Result<Report> {
    options.check(finding)?;
    let (prior, operator) = (problem.prior.name(), problem.operator.name().to_string());
    let of_scores = Row::default()
        .with("zetas", &options.zetas)
        .with("points", options.points)
        .with("noise_variance", problem.variance)
        .with("seed", problem.seed);
    match finding {
        Finding::ScoreError => {
            let found = score_error::distances(problem, options, watch)?;
            Ok(score_error::report(&found, prior, operator, of_scores.with("signals", options.signals)))
        }
        Finding::ScoreMean => {
            let found = score_mean::scores(problem, options, watch)?;
            let of_scores = of_scores.with("samples", options.samples);
            Ok(score_mean::report(&found, "x_t ~ p(x_t | y), by noise on exact draws", prior, operator, of_scores))
        }
        Finding::Diversity => {
            let found = samples(problem, options, watch)?;
            Ok(diversity::report(&found, prior, operator, settings(problem, options)))
        }
        Finding::Calibration => {
            let found = samples(problem, options, watch)?;
            Ok(calibration::report(problem, &found, prior, operator, settings(problem, options)))
        }
    }
}
