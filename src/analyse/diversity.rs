//! The third finding: how much samples of one measurement differ.
//!
//! As published, diversity is the standard deviation over samples at each position (unbiased), then
//! the mean over positions. It is compared with that of as many exact draws of the posterior.

use super::chain::ChainMethod;
use super::plot::{Axis, Plot, Point, Scale, Series};
use super::report::{Claim, Report, Row};
use super::samples::{ABOUT_METHODS, Sampled, mean, mean_standard_deviation, squared_error};
use super::statistics::Estimate;
use crate::error::figure;

/// The claim about diversity of a method, whose ratio to the reference's has this logarithm.
pub fn claim(name: &str, log_ratio: &Estimate, reference: &str) -> Claim {
    // The claim is that the ratio lies below 1.
    let below = Estimate { mean: -log_ratio.mean, low: -log_ratio.high, high: -log_ratio.low, ..*log_ratio };
    Claim {
        claim: format!("Claim 3, samples of {name} are less diverse than {reference}"),
        verdict: below.above(0.0),
        because: format!(
            "their standard deviation is {} times as large, 95 % interval {} to {}",
            figure(log_ratio.mean.exp()),
            figure(log_ratio.low.exp()),
            figure(log_ratio.high.exp())
        ),
    }
}

/// The report about samples.
pub fn report(found: &Sampled, prior: String, operator: String, settings: Row) -> Report {
    let deviation = |k: usize| -> Vec<f64> { found.samples.iter().map(|s| mean_standard_deviation(&s[k])).collect() };
    let of_exact = deviation(0);
    let (mut rows, mut claims, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (k, method) in found.methods.iter().enumerate() {
        let own = deviation(k);
        let all = Estimate::of(&own);
        let logs: Vec<f64> = own.iter().zip(&of_exact).map(|(a, b)| (a / b).ln()).collect();
        let ratio = Estimate::of(&logs);
        let errors: Vec<f64> =
            found.samples.iter().zip(&found.signals).map(|(s, x)| squared_error(&mean(&s[k]), &x.x).sqrt()).collect();
        let size = Estimate::of(&errors).mean;
        let exp = ratio.map(f64::exp, f64::exp);
        rows.push(
            Row::default()
                .with("method", method.name())
                .with("std", all.mean)
                .with("error", all.standard_error)
                .with_estimate("ratio to exact", &exp)
                .with("RMSE of mean", size),
        );
        points.push(Point { x: k as f64, y: exp.mean, interval: (exp.low, exp.high) });
        if !matches!(method, ChainMethod::Exact | ChainMethod::Ancestral) {
            claims.push(claim(&method.name(), &ratio, "draws of the posterior"));
        }
    }
    let names = found.methods.iter().map(|m| m.name()).collect();
    let plot = Plot {
        title: format!("Diversity over that of exact draws: {prior}, {operator}"),
        x: Axis::of_categories("", names),
        y: Axis::new("standard deviation over that of exact draws", Scale::Log),
        series: vec![Series { name: String::new(), points, is_line: false }],
        mark: Some((1.0, "as diverse as the posterior".into())),
    };
    let count = found.signals.len();
    let about = format!("Ratios are geometric means over {count} signals with Student's 95 % interval.");
    let notes = vec![about, ABOUT_METHODS.into()];
    let version = env!("CARGO_PKG_VERSION");
    Report { finding: "diversity", prior, operator, settings, rows, claims, notes, version, plot }
}
