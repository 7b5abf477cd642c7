//! The findings on priors whose posterior is known.

use crate::stream;
use dmap::analyse::chain::{ChainMethod, Levels};
use dmap::analyse::mixture::normals;
use dmap::analyse::score_error::{ComparedLevel, Estimator, dps_epsilon};
use dmap::analyse::score_mean::Scores;
use dmap::analyse::{Finding, Options, Problem, Report, Verdict, analyse, calibration};
use dmap::model::NoiseSchedule;
use dmap::sampler::{Schedule, Spacing};
use std::ops::ControlFlow;

fn found(prior: &str, operator: &str, finding: Finding, change: impl Fn(Options) -> Options) -> Report {
    let problem = Problem::new(prior, operator, 25.0, 40, 0).unwrap();
    let options = change(Options::usual(finding, problem.prior.is_sampled()));
    analyse(&problem, finding, &options, &|_, _| ControlFlow::Continue(())).unwrap()
}

fn verdicts(report: &Report) -> Vec<Verdict> {
    report.claims.iter().map(|c| c.verdict).collect()
}

/// The number in row `row` and column `name`.
fn number(report: &Report, row: usize, name: &str) -> f64 {
    report.rows[row].0.iter().find(|c| c.0 == name).unwrap().1.as_f64().unwrap()
}

use Verdict::{DoesNotHold, Holds, NotDecided};

#[test]
fn scores_of_dps_are_farther_from_the_posterior_score_at_all_but_the_smallest_step() {
    let few = |o: Options| Options { signals: 8, points: 12, ..o };
    let report = found("gaussian", "convolution", Finding::ScoreError, few);
    assert_eq!(verdicts(&report), [DoesNotHold, Holds, Holds, Holds, Holds, DoesNotHold]);
    // For large steps the distance grows as the square of the step size.
    let ratio = number(&report, 5, "DPS 4.8") / number(&report, 5, "DPS 1.2");
    assert!((ratio / 16.0 - 1.0).abs() < 0.1, "{ratio}");
    // The same figures, whatever runs beside them.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = alone.install(|| found("gaussian", "convolution", Finding::ScoreError, few));
    assert_eq!(report.json().unwrap(), again.json().unwrap());
}

#[test]
fn the_mean_of_dps_s_score_is_not_zero_and_that_of_the_posterior_score_is() {
    let report = found("gaussian", "convolution", Finding::ScoreMean, |o| Options { samples: 120, ..o });
    assert_eq!(verdicts(&report), [Holds, NotDecided, Holds, Holds, Holds, Holds]);
}

#[test]
fn samples_of_dps_are_too_alike_in_denoising_and_do_not_cover_the_truth() {
    let given = |o| Options { dps_zeta: Some(0.3), dmap_zeta: Some(0.5), levels: 60, ..o };
    let report = found("gaussian", "identity", Finding::Diversity, |o| Options { signals: 6, samples: 10, ..given(o) });
    assert_eq!(verdicts(&report), [Holds, Holds]);
    let report =
        found("gaussian", "identity", Finding::Calibration, |o| Options { signals: 60, samples: 10, ..given(o) });
    assert_eq!(verdicts(&report), [Holds, Holds]);
    let (exact, dps) = (0, 2);
    let nominal = calibration::nominal(10);
    assert!(number(&report, exact, "low") < nominal && number(&report, exact, "high") > nominal);
    assert!(number(&report, dps, "high") < 0.5 * nominal);
    // The gap of exact draws is its floor within the error.
    let gap = number(&report, exact, "MMSE gap dB") - number(&report, exact, "floor dB");
    assert!(gap.abs() < 4.0 * number(&report, exact, "error"), "{gap}");
}

#[test]
fn sampled_priors_give_the_same_on_every_run() {
    let few =
        |o| Options { signals: 2, samples: 3, levels: 6, points: 4, dps_zeta: Some(0.3), dmap_zeta: Some(1.0), ..o };
    for prior in ["laplace", "student:1", "bernoulli-laplace"] {
        for finding in Finding::ALL {
            let report = found(prior, "sample", finding, few).json().unwrap();
            assert!(!report.contains("null"), "{prior}, {}: all figures are finite", finding.name());
        }
        let reports = [0, 1].map(|_| found(prior, "sample", Finding::ScoreError, few).json().unwrap());
        assert_eq!(reports[0], reports[1]);
    }
}

#[test]
fn ancestral_sampling_with_the_exact_score_draws_the_posterior() {
    let problem = Problem::new("mixture", "sample", 25.0, 10, 1).unwrap();
    let schedule = Schedule::new(NoiseSchedule::Linear, 1000, 250, Spacing::Quadratic).unwrap();
    let levels = Levels::new(&problem, schedule);
    let signal = problem.signal(0);
    let [drawn, sampled] = [ChainMethod::Exact, ChainMethod::Ancestral].map(|m| levels.sample(m, 0, &signal, 200, 4));
    let moments = |of: &[Vec<f64>], i: usize| {
        let mean = of.iter().map(|x| x[i]).sum::<f64>() / of.len() as f64;
        (mean, (of.iter().map(|x| (x[i] - mean).powi(2)).sum::<f64>() / (of.len() - 1) as f64).sqrt())
    };
    let mut worst: f64 = 0.0;
    let mut ratio = 0.0;
    for i in 0..64 {
        let (a, b) = (moments(&drawn, i), moments(&sampled, i));
        worst = worst.max((a.0 - b.0).abs() / (a.1 * (2.0f64 / 200.0).sqrt()));
        ratio += b.1 / a.1 / 64.0;
    }
    assert!(worst < 4.5 && (ratio - 1.0).abs() < 0.05, "{worst} {ratio}");
}

#[test]
fn the_score_of_dps_gives_its_step() {
    let s = Schedule::new(NoiseSchedule::Linear, 1000, 1000, Spacing::Linear).unwrap();
    for t in [1, 300, 999] {
        let (x, eps, g, zeta) = (0.4, 0.7, -0.3, 1.2);
        let (a, b) = s.posterior_mean(t);
        let (by_x, by_eps) = s.tweedie(t);
        let step = |eps: f64| a * (by_x * x + by_eps * eps) + b * x;
        let moved = step(dps_epsilon(&[eps], &[g], zeta, s.beta[t], s.alpha_bar[t])[0]);
        assert!((moved - (step(eps) - zeta * g)).abs() < 1e-12, "{t}");
    }
}

#[test]
fn the_mean_of_scores_is_found_without_bias() {
    let level = ComparedLevel { timestep: 999, alpha_bar: 0.0, beta: 0.02 };
    let of = |shift: f64| {
        let mut random = stream(12);
        let draw = |_| normals(16, &mut random).iter().map(|n| n + shift).collect();
        let epsilon = (0..300).map(draw).collect();
        Scores { estimator: Estimator::Posterior, level, epsilon, channels: 1 }.mean()
    };
    // || E s ||^2 / E || s ||^2 = shift^2 / (shift^2 + 1).
    for shift in [0.0, 0.2, 2.0] {
        let (mean, truth) = (of(shift), shift * shift / (shift * shift + 1.0));
        assert!((mean.share.mean - truth).abs() < 3.0 * mean.share.standard_error, "{shift}: {:?}", mean.share);
        assert!(mean.share.standard_error < 0.03);
    }
    assert!((of(0.0).ratio.mean * 300f64.sqrt() - 1.0).abs() < 0.4, "about 1 / sqrt(n) for a mean of zero");
    // The published estimator of one channel is the mean of |s|: sqrt(2 / pi) for normal numbers.
    assert!((of(0.0).published.0 - 0.8).abs() < 0.4);
}

#[test]
fn coverage_and_gap_of_exact_draws_are_those_of_their_number() {
    assert!((calibration::nominal(50) - 45.0 / 51.0).abs() < 1e-12);
    assert!((calibration::nominal(20) - 18.0 / 21.0).abs() < 1e-12);
    assert!((calibration::floor(50) - 0.086).abs() < 1e-4);
}

#[test]
fn work_that_is_stopped_ends_at_once() {
    let problem = Problem::new("gaussian", "identity", 25.0, 10, 0).unwrap();
    let options = Options::usual(Finding::Calibration, false);
    let stopped = analyse(&problem, Finding::Calibration, &options, &|_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(dmap::Error::Cancelled)));
}
