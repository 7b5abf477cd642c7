//! Diversity of the samples of one measurement by methods of the sampler.

use super::NetworkProblem;
use crate::analyse::diversity::claim;
use crate::analyse::options::Options;
use crate::analyse::plot::{Axis, Plot, Point, Scale, Series};
use crate::analyse::report::{Report, Row};
use crate::analyse::samples::mean_standard_deviation;
use crate::analyse::statistics::Estimate;
use crate::analyse::work::{Watch, check};
use crate::error::{Error, Result};
use crate::sampler::{Item, Restorer, Settings};
use std::ops::ControlFlow;

/// Samples `options.samples` images by each of `methods`, as typed on the command line; with a
/// conditional score estimator also by `cse`, with which the others are compared. `options.levels`
/// levels each, or the usual number of the method without `levels`.
pub fn report(
    problem: &NetworkProblem<'_>,
    options: &Options,
    methods: &[String],
    levels: Option<usize>,
    settings: Row,
    watch: Watch<'_>,
) -> Result<Report> {
    if options.samples < 3 {
        let reason =
            "--samples 2: the error of a network's diversity is that of leaving one sample out; take at least 3";
        return Err(Error::Invalid(reason.into()));
    }
    let prior = problem.model.network.prior();
    let conditional = problem.cse.or(problem.reference).filter(|m| m.network.condition().is_some());
    let mut all: Vec<(String, Vec<Vec<f64>>)> = Vec::new();
    let typed = conditional.map(|m| ("cse", m)).into_iter();
    let typed: Vec<_> = typed.chain(methods.iter().map(|m| (m.as_str(), problem.model))).collect();
    for (k, (method, model)) in typed.iter().enumerate() {
        let usual = Settings::parse(method, &prior)?;
        let steps = levels.unwrap_or(usual.steps);
        let chosen = usual.steps(steps);
        let mut restorer =
            Restorer::new(model, problem.operator, &chosen, problem.image, problem.plan, problem.device)?;
        let mut images = Vec::new();
        for sample in 0..options.samples {
            let (done, count) =
                (k * options.samples as usize + sample as usize, typed.len() * options.samples as usize);
            let go_on = || match check(watch, done, count) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let item = Item::new(problem.measurement.clone(), problem.seed).sample(sample);
            let restored = restorer.restore(&[item], |_| go_on())?.remove(0);
            images.push(restored.picture.values.into_iter().map(f64::from).collect());
        }
        all.push((format!("{}, {steps} levels", chosen.method.method()), images));
    }
    let deviation = |images: &[Vec<f64>], left: Option<usize>| {
        let kept: Vec<Vec<f64>> =
            images.iter().enumerate().filter(|(i, _)| Some(*i) != left).map(|(_, image)| image.clone()).collect();
        mean_standard_deviation(&kept)
    };
    let (mut rows, mut claims, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (k, (name, images)) in all.iter().enumerate() {
        // By the logarithm, so that the interval stays above 0.
        let own = Estimate::jackknife(images.len(), |left| deviation(images, left).ln()).map(f64::exp, f64::exp);
        let row = Row::default().with("method", name).with_estimate("std", &own);
        points.push(Point { x: k as f64, y: own.mean, interval: (own.low, own.high) });
        let of_cse = conditional.map(|_| &all[0].1).filter(|_| k > 0);
        let Some(of_cse) = of_cse else {
            rows.push(row.with("ratio to cse", if k == 0 && conditional.is_some() { Some(1.0) } else { None }));
            continue;
        };
        // Sample m of both methods starts from the same noise; they are left out together.
        let log = |left| (deviation(images, left) / deviation(of_cse, left)).ln();
        let ratio = Estimate::jackknife(images.len(), log);
        rows.push(row.with("ratio to cse", ratio.mean.exp()));
        claims.push(claim(name, &ratio, "those of the conditional score estimator"));
    }
    let notes = vec![
        "The standard deviation is unbiased over samples, then averaged over pixels and channels, in [-1, 1]; intervals by \
         the jackknife over samples."
            .into(),
        match conditional {
            Some(_) => "The estimator stands for the posterior; what it gets wrong counts for DPS.".into(),
            None => "Without an estimator there is nothing to compare with: claim 3 is not decided.".to_string(),
        },
    ];
    let (prior, operator) = (problem.model.name.clone(), problem.operator.task());
    let names = all.iter().map(|a| a.0.split([',', ':']).next().unwrap_or_default().to_string()).collect();
    let plot = Plot {
        title: format!("Diversity of samples: {prior}, {operator}"),
        x: Axis::of_categories("", names),
        y: Axis::new("standard deviation in [-1, 1]", Scale::Linear),
        series: vec![Series { name: String::new(), points, is_line: false }],
        mark: None,
    };
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { finding: "diversity", prior, operator, settings, rows, claims, notes, version, plot })
}
