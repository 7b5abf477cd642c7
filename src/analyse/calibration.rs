//! Calibration: is the true signal as probable as the samples are, and is their mean the best one?
//!
//! Coverage of the highest posterior density: the true signal is covered if log p(x | y) of it
//! reaches the level that the share 0.9 of the samples reaches. All samples weigh the same: with
//! weights in proportion to p(x | y), as in the published code, one sample takes all the weight,
//! and an exact sampler seems to cover next to nothing. Truth and M exact samples have one law, so
//! an exact sampler covers in the share ceil(0.9 M) / (M + 1).
//!
//! The gap to the best mean: 10 log10 of the squared error of the mean of M samples over that of
//! E[x | y], averaged over signals. For exact samples it is about 10 log10(1 + 1/M).

use super::chain::ChainMethod;
use super::plot::{Axis, Plot, Point, Scale, Series};
use super::problem::Problem;
use super::report::{Claim, Report, Row};
use super::samples::{ABOUT_METHODS, Sampled, mean, squared_error};
use super::statistics::Estimate;
use crate::error::figure;

/// The level of the coverage.
pub const LEVEL: f64 = 0.9;

/// True if the truth reaches the level that the share [`LEVEL`] of the samples reaches.
fn is_covered(truth: f64, samples: &[f64]) -> bool {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    truth >= sorted[needed(sorted.len()) - 1]
}

/// ceil(0.9 M), not misled by the rounding of 0.9.
fn needed(samples: usize) -> usize {
    ((LEVEL * samples as f64 - 1e-9).ceil() as usize).max(1)
}

/// The share in which an exact sampler of M samples covers.
pub fn nominal(samples: usize) -> f64 {
    needed(samples) as f64 / (samples as f64 + 1.0)
}

/// The gap of an exact sampler of M samples in dB.
pub fn floor(samples: usize) -> f64 {
    10.0 * (1.0 + 1.0 / samples as f64).log10()
}

/// The report about samples.
pub fn report(problem: &Problem, found: &Sampled, prior: String, operator: String, settings: Row) -> Report {
    let posterior = problem.reference.under(problem.precision());
    let best: Vec<f64> = (found.signals.iter().enumerate())
        .map(|(i, s)| {
            let mut random = problem.random(i as u32, 1, 1);
            squared_error(&posterior.moments(&s.information, &mut random).mean, &s.x)
        })
        .collect();
    let count = found.samples.first().map_or(0, |s| s[0].len());
    let (nominal, floor) = (nominal(count), floor(count));
    let (mut rows, mut claims, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (k, method) in found.methods.iter().enumerate() {
        let covered = |(signal, samples): (&super::problem::Signal, &Vec<Vec<Vec<f64>>>)| {
            let log = |x: &Vec<f64>| problem.log_posterior(x, &signal.y);
            is_covered(log(&signal.x), &samples[k].iter().map(log).collect::<Vec<_>>())
        };
        let hits = found.signals.iter().zip(&found.samples).filter(|pair| covered(*pair)).count();
        let coverage = Estimate::share(hits, found.signals.len());
        let gaps: Vec<f64> = (found.signals.iter().zip(&found.samples).zip(&best))
            .map(|((s, samples), best)| 10.0 * (squared_error(&mean(&samples[k]), &s.x) / best).log10())
            .collect();
        let gap = Estimate::of(&gaps);
        rows.push(
            Row::default()
                .with("method", method.name())
                .with_estimate("coverage", &coverage)
                .with("exact", nominal)
                .with("MMSE gap dB", gap.mean)
                .with("error", gap.standard_error)
                .with("floor dB", floor),
        );
        points.push(Point { x: k as f64, y: coverage.mean, interval: (coverage.low, coverage.high) });
        if !matches!(method, ChainMethod::Exact | ChainMethod::Ancestral) {
            let below = Estimate { low: -coverage.high, high: -coverage.low, mean: -coverage.mean, ..coverage };
            claims.push(Claim {
                claim: format!(
                    "Claim 3, samples of {} cover the truth less often than draws of the posterior",
                    method.name()
                ),
                verdict: below.above(-nominal),
                because: format!(
                    "coverage {}, 95 % interval {} to {}, where exact draws have {}",
                    figure(coverage.mean),
                    figure(coverage.low),
                    figure(coverage.high),
                    figure(nominal)
                ),
            });
        }
    }
    let plot = Plot {
        title: format!("Coverage at the level {LEVEL}: {prior}, {operator}"),
        x: Axis::of_categories("", found.methods.iter().map(|m| m.name()).collect()),
        y: Axis::new("share of signals that are covered", Scale::Linear),
        series: vec![Series { name: String::new(), points, is_line: false }],
        mark: Some((nominal, "exact draws".into())),
    };
    let mut notes = vec![format!(
        "{} signals, {count} samples of each; coverage with uniform weights and Wilson's 95 % interval. The gap of exact \
         draws is about {} dB.",
        found.signals.len(),
        figure(floor)
    )];
    notes.push(ABOUT_METHODS.into());
    if prior == "bernoulli-laplace" {
        notes.push(
            "This prior has atoms, which no chain hits: samples of DPS and DMAP count as less probable than the truth, so \
             their coverage is high for a reason that says nothing of their spread."
                .into(),
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    Report { finding: "calibration", prior, operator, settings, rows, claims, notes, version, plot }
}
