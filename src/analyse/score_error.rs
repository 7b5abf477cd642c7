//! The first finding: how far scores are from the posterior score.
//!
//! At x_t of a reference trajectory the distance of an estimate is bbar_t mean((eps - eps_ref)^2).
//! For a prior with a known posterior, a trajectory is a path of the forward process that starts at
//! an exact draw of p(x | y): its x_t have the law p(x_t | y) at every level, as those of ancestral
//! sampling with the exact score have in the limit of many levels.
//!
//! DPS as a score: a step of a chain, x_{t-1} = a x0 + b x_t - zeta g + noise with the gradient g
//! of || A(x0(x_t)) - y ||, is an ancestral step with eps + zeta g / c_t, c_t = beta_t / sqrt((1 -
//! beta_t) bbar_t). As published, beta_t is that of a chain of 1000 levels.

use super::chain::Levels;
use super::mixture::normals;
use super::options::Options;
use super::plot::{Axis, Plot, Point, Scale, Series};
use super::prior::epsilon;
use super::problem::Problem;
use super::report::{Claim, Report, Row};
use super::statistics::{Estimate, Verdict};
use super::work::{Watch, in_parallel};
use crate::error::{Result, figure};
use crate::model::NoiseSchedule;
use crate::sampler::{Schedule, Spacing};

/// Levels of the training schedule of priors with a known posterior.
pub const TRAINING_LEVELS: usize = 1000;

/// An estimate of the posterior score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Estimator {
    /// The score of the prior.
    Unconditional,
    /// DPS with this step size.
    Dps(f64),
    /// A conditional score estimator.
    Cse,
    /// The posterior score itself.
    Posterior,
}

impl Estimator {
    /// Its name in tables and legends.
    pub fn name(self) -> String {
        match self {
            Estimator::Unconditional => "unconditional".into(),
            Estimator::Dps(zeta) => format!("DPS {zeta}"),
            Estimator::Cse => "CSE".into(),
            Estimator::Posterior => "posterior".into(),
        }
    }
}

/// eps of DPS: that of the prior plus zeta g / c_t.
pub fn dps_epsilon(prior: &[f64], gradient: &[f64], zeta: f64, beta: f64, alpha_bar: f64) -> Vec<f64> {
    let c = beta / ((1.0 - beta) * (1.0 - alpha_bar)).sqrt();
    prior.iter().zip(gradient).map(|(e, g)| e + zeta / c * g).collect()
}

/// bbar mean((a - b)^2)
pub fn distance(a: &[f64], b: &[f64], alpha_bar: f64) -> f64 {
    (1.0 - alpha_bar) * a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// Levels at which scores are compared: timestep, abar and beta of a chain of 1000 levels, the
/// strongest noise first.
#[derive(Clone, Copy, Debug)]
pub struct ComparedLevel {
    /// Timestep of training.
    pub timestep: usize,
    /// abar_t
    pub alpha_bar: f64,
    /// beta_t
    pub beta: f64,
}

/// `count` levels of a training schedule, evenly spaced, the strongest noise first.
pub fn compared_levels(training: NoiseSchedule, total: usize, count: usize) -> Result<Vec<ComparedLevel>> {
    let full = Schedule::new(training, total, total, Spacing::Linear)?;
    let chosen = Schedule::new(training, total, count, Spacing::Linear)?;
    let of = |t: &f64| {
        let timestep = *t as usize;
        ComparedLevel { timestep, alpha_bar: full.alpha_bar[timestep], beta: full.beta[timestep] }
    };
    Ok(chosen.timesteps.iter().rev().map(of).collect())
}

/// The distances of estimators along trajectories.
pub struct Distances {
    /// The estimators; the first is the unconditional score.
    pub estimators: Vec<Estimator>,
    /// The levels, the strongest noise first.
    pub levels: Vec<ComparedLevel>,
    /// Distance by trajectory, level and estimator.
    pub values: Vec<Vec<Vec<f64>>>,
    /// What the error of a sampled reference adds to every distance, by trajectory and level; empty
    /// if the reference has none.
    pub reference_error: Vec<Vec<f64>>,
}

/// Measures distances on a prior whose posterior is known.
pub fn distances(problem: &Problem, options: &Options, watch: Watch<'_>) -> Result<Distances> {
    let levels = compared_levels(NoiseSchedule::Linear, TRAINING_LEVELS, options.points)?;
    let schedule = Schedule::new(NoiseSchedule::Linear, TRAINING_LEVELS, options.points, Spacing::Linear)?;
    let chain = Levels::of_reference(problem, schedule);
    let estimators: Vec<Estimator> =
        [Estimator::Unconditional].into_iter().chain(options.zetas.iter().map(|&z| Estimator::Dps(z))).collect();
    let is_sampled = problem.prior.is_sampled();
    let of_signal = |index: usize| {
        let signal = problem.signal(index as u32);
        let mut random = problem.random(index as u32, 1, 0);
        let posterior = problem.reference.under(problem.precision());
        let mut x = posterior.draws(&signal.information, 1, &mut random).remove(0);
        let (mut before, mut values, mut errors) = (1.0, Vec::new(), Vec::new());
        // From little noise to much, as the forward process runs.
        for (i, level) in levels.iter().rev().enumerate() {
            let kept = level.alpha_bar / before;
            let noise = normals(x.len(), &mut random);
            x = x.iter().zip(noise).map(|(x, n)| kept.sqrt() * x + (1.0 - kept).sqrt() * n).collect();
            before = level.alpha_bar;
            let mut of_posterior =
                || epsilon(&x, &chain.denoise_given(i, &x, &signal, &mut random).mean, level.alpha_bar);
            let mut reference = of_posterior();
            if is_sampled {
                // The mean of two chains; their difference tells its error.
                let second = of_posterior();
                errors.push(0.25 * distance(&reference, &second, level.alpha_bar));
                reference.iter_mut().zip(second).for_each(|(a, b)| *a = 0.5 * (*a + b));
            }
            let guided = chain.guide(i, &x, &signal.y, &mut random);
            let prior = epsilon(&x, &guided.x0, level.alpha_bar);
            let of = |e: &Estimator| match e {
                Estimator::Dps(zeta) => dps_epsilon(&prior, &guided.gradient, *zeta, level.beta, level.alpha_bar),
                _ => prior.clone(),
            };
            values.push(estimators.iter().map(|e| distance(&of(e), &reference, level.alpha_bar)).collect());
        }
        values.reverse();
        errors.reverse();
        (values, errors)
    };
    let found = in_parallel(options.signals as usize, watch, of_signal)?;
    let (values, reference_error): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let reference_error = if is_sampled { reference_error } else { Vec::new() };
    Ok(Distances { estimators, levels, values, reference_error })
}

/// The report about distances.
pub fn report(found: &Distances, prior: String, operator: String, settings: Row) -> Report {
    let trajectories = found.values.len();
    let over = |k: usize, e: usize| -> Vec<f64> { found.values.iter().map(|v| v[k][e]).collect() };
    let mut rows = Vec::new();
    for (k, level) in found.levels.iter().enumerate() {
        let sigma = ((1.0 - level.alpha_bar) / level.alpha_bar).sqrt();
        let mut row = Row::default().with("timestep", level.timestep).with("sigma", sigma);
        for (e, estimator) in found.estimators.iter().enumerate() {
            row = row.with(&estimator.name(), Estimate::of(&over(k, e)).mean);
        }
        if !found.reference_error.is_empty() {
            let mean = found.reference_error.iter().map(|v| v[k]).sum::<f64>() / trajectories as f64;
            row = row.with("error of reference", mean);
        }
        rows.push(row);
    }
    let of_series = |(e, estimator): (usize, &Estimator)| {
        let point = |(k, level): (usize, &ComparedLevel)| {
            let mean = Estimate::of(&over(k, e)).mean;
            Point { x: level.timestep as f64, y: mean, interval: (mean, mean) }
        };
        Series { name: estimator.name(), points: found.levels.iter().enumerate().map(point).collect(), is_line: true }
    };
    let plot = Plot {
        title: format!("Squared distance from the posterior score: {prior}, {operator}"),
        x: Axis::new("timestep (noise grows to the right)", Scale::Linear),
        y: Axis::new("mean of bbar (eps - eps of the posterior)^2", Scale::Log),
        series: found.estimators.iter().enumerate().map(of_series).collect(),
        mark: None,
    };
    let total = found.levels[0].timestep;
    let claims = claims(found, total / 2);
    let notes = vec![format!(
        "Distances are means over {trajectories} trajectories. Claims compare the sums over timesteps from {} on, by the \
         logarithm of their ratio, with Student's 95 % interval over trajectories.",
        total / 2
    )];
    let version = env!("CARGO_PKG_VERSION");
    Report { finding: "score-error", prior, operator, settings, rows, claims, notes, version, plot }
}

/// Whether each estimator is farther than the unconditional score, over timesteps from `from` on.
fn claims(found: &Distances, from: usize) -> Vec<Claim> {
    let strong: Vec<usize> = (0..found.levels.len()).filter(|&k| found.levels[k].timestep >= from).collect();
    let sum = |v: &[Vec<f64>], e: usize| strong.iter().map(|&k| v[k][e]).sum::<f64>();
    let mut all = Vec::new();
    let mut claims = Vec::new();
    for (e, estimator) in found.estimators.iter().enumerate().skip(1) {
        let ratios: Vec<f64> = found.values.iter().map(|v| (sum(v, e) / sum(v, 0)).ln()).collect();
        let ratio = Estimate::of(&ratios);
        let verdict = ratio.above(0.0);
        let because = format!(
            "its squared distance is {} times as large, 95 % interval {} to {}",
            figure(ratio.mean.exp()),
            figure(ratio.low.exp()),
            figure(ratio.high.exp())
        );
        let claim = match estimator {
            Estimator::Dps(zeta) => {
                all.push((*zeta, verdict));
                format!("DPS with zeta {zeta} is farther from the posterior score than the unconditional score")
            }
            other => format!("{} is farther from the posterior score than the unconditional score", other.name()),
        };
        claims.push(Claim { claim, verdict, because });
    }
    let with = |wanted: Verdict| {
        let zetas: Vec<String> = all.iter().filter(|(_, v)| *v == wanted).map(|(z, _)| z.to_string()).collect();
        if zetas.is_empty() { "no zeta".into() } else { format!("zeta {}", zetas.join(", ")) }
    };
    claims.push(Claim {
        claim:
            "Claim 1, at strong noise DPS is farther from the posterior score than the unconditional score, at every \
                zeta"
                .into(),
        verdict: Verdict::all(&all.iter().map(|a| a.1).collect::<Vec<_>>()),
        because: format!("farther at {}, nearer at {}", with(Verdict::Holds), with(Verdict::DoesNotHold)),
    });
    claims
}
