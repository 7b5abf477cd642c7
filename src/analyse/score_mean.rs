//! The second finding: the mean of scores over x_t ~ p(x_t | y). That of the true conditional score
//! grad log p(x_t | y) is zero at every level.
//!
//! The statistic is || E s || / sqrt(E || s ||^2). With the mean over n samples in place of E it is
//! about 1 / sqrt(n) where the true mean is zero. So the share of the mean, || E s ||^2 / E || s
//! ||^2, is also estimated without that bias, from the inner products of pairs of samples, with the
//! jackknife's error over samples.
//!
//! The published estimator (mean_score.py) is printed beside it: for sqrt(bbar) eps at one x_T, the
//! mean and the standard deviation over positions of the absolute mean over channels. It averages
//! over channels of one sample and not over samples, so it says nothing of E s.

use super::chain::Levels;
use super::mixture::normals;
use super::options::Options;
use super::plot::{Axis, Plot, Point, Scale, Series};
use super::prior::epsilon;
use super::problem::Problem;
use super::report::{Claim, Report, Row};
use super::score_error::{ComparedLevel, Estimator, TRAINING_LEVELS, compared_levels, dps_epsilon};
use super::statistics::{Estimate, Verdict};
use super::work::{Watch, in_parallel};
use crate::error::{Result, figure};
use crate::model::NoiseSchedule;
use crate::sampler::{Schedule, Spacing};

/// Scores of one estimator at one level.
pub struct Scores {
    /// The estimator.
    pub estimator: Estimator,
    /// The level.
    pub level: ComparedLevel,
    /// eps of each sample of x_t; the statistics do not depend on the factor to the score.
    pub epsilon: Vec<Vec<f64>>,
    /// Channels of a value's position: 1 for signals, 3 for colour images.
    pub channels: usize,
}

/// What the scores of one estimator at one level say.
pub struct Mean {
    /// || mean s || / sqrt(mean || s ||^2), with the jackknife's error.
    pub ratio: Estimate,
    /// || E s ||^2 / E || s ||^2 without bias.
    pub share: Estimate,
    /// The published estimator: mean and standard deviation.
    pub published: (f64, f64),
}

impl Scores {
    /// The statistics of the scores.
    pub fn mean(&self) -> Mean {
        let n = self.epsilon.len();
        let mut sum = vec![0.0; self.epsilon[0].len()];
        for s in &self.epsilon {
            sum.iter_mut().zip(s).for_each(|(a, b)| *a += b);
        }
        let squares: Vec<f64> = self.epsilon.iter().map(|s| s.iter().map(|v| v * v).sum()).collect();
        let square_of_sum: f64 = sum.iter().map(|v| v * v).sum();
        let along: Vec<f64> = self.epsilon.iter().map(|s| s.iter().zip(&sum).map(|(a, b)| a * b).sum()).collect();
        let total: f64 = squares.iter().sum();
        // || sum ||^2, the sum of || s ||^2 and the number of samples, without one of them.
        let without = |left: Option<usize>| match left {
            None => (square_of_sum, total, n as f64),
            Some(i) => (square_of_sum - 2.0 * along[i] + squares[i], total - squares[i], n as f64 - 1.0),
        };
        let ratio = |left| {
            let (sum, squares, n) = without(left);
            (sum.max(0.0) / (n * squares)).sqrt()
        };
        let share = |left| {
            let (sum, squares, n) = without(left);
            (sum - squares) / ((n - 1.0) * squares)
        };
        Mean { ratio: Estimate::jackknife(n, ratio), share: Estimate::jackknife(n, share), published: self.published() }
    }

    fn published(&self) -> (f64, f64) {
        let scale = (1.0 - self.level.alpha_bar).sqrt();
        let of_position = |s: &[f64]| (scale * s.iter().sum::<f64>() / s.len() as f64).abs();
        let values: Vec<f64> = self.epsilon[0].chunks(self.channels).map(of_position).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        (mean, variance.sqrt())
    }
}

/// Draws x_t ~ p(x_t | y) of one measurement and evaluates the scores there.
pub fn scores(problem: &Problem, options: &Options, watch: Watch<'_>) -> Result<Vec<Scores>> {
    let levels = compared_levels(NoiseSchedule::Linear, TRAINING_LEVELS, options.points)?;
    let schedule = Schedule::new(NoiseSchedule::Linear, TRAINING_LEVELS, options.points, Spacing::Linear)?;
    let chain = Levels::of_reference(problem, schedule);
    let signal = problem.signal(0);
    let posterior = problem.reference.under(problem.precision());
    let draws = posterior.draws(&signal.information, options.samples as usize, &mut problem.random(0, 2, 0));
    let estimators: Vec<Estimator> = [Estimator::Posterior, Estimator::Unconditional]
        .into_iter()
        .chain(options.zetas.iter().map(|&z| Estimator::Dps(z)))
        .collect();
    let of_sample = |m: usize| {
        let mut random = problem.random(0, 3, m as u32);
        let mut found = Vec::new();
        for (k, level) in levels.iter().enumerate() {
            let bar = level.alpha_bar;
            let noise = normals(draws[m].len(), &mut random);
            let x: Vec<f64> =
                draws[m].iter().zip(noise).map(|(x, n)| bar.sqrt() * x + (1.0 - bar).sqrt() * n).collect();
            let i = levels.len() - 1 - k;
            let exact = epsilon(&x, &chain.denoise_given(i, &x, &signal, &mut random).mean, bar);
            let guided = chain.guide(i, &x, &signal.y, &mut random);
            let prior = epsilon(&x, &guided.x0, bar);
            found.push(
                estimators
                    .iter()
                    .map(|e| match e {
                        Estimator::Dps(zeta) => dps_epsilon(&prior, &guided.gradient, *zeta, level.beta, bar),
                        Estimator::Posterior => exact.clone(),
                        _ => prior.clone(),
                    })
                    .collect::<Vec<_>>(),
            );
        }
        found
    };
    let mut found = in_parallel(draws.len(), watch, of_sample)?;
    let mut all = Vec::new();
    for (k, level) in levels.iter().enumerate() {
        for (e, estimator) in estimators.iter().enumerate() {
            let epsilon = found.iter_mut().map(|of_sample| std::mem::take(&mut of_sample[k][e])).collect();
            all.push(Scores { estimator: *estimator, level: *level, epsilon, channels: 1 });
        }
    }
    Ok(all)
}

/// The report about means of scores. `x_t` says what the x_t are draws of.
pub fn report(found: &[Scores], x_t: &str, prior: String, operator: String, settings: Row) -> Report {
    let means: Vec<Mean> = found.iter().map(Scores::mean).collect();
    let row = |(s, m): (&Scores, &Mean)| {
        Row::default()
            .with("timestep", s.level.timestep)
            .with("score", s.estimator.name())
            .with("ratio", m.ratio.mean)
            .with("error", m.ratio.standard_error)
            .with("if zero", (s.epsilon.len() as f64).sqrt().recip())
            .with_estimate("share of mean", &m.share)
            .with("published mean", m.published.0)
            .with("published std", m.published.1)
    };
    let rows = found.iter().zip(&means).map(row).collect();
    let first = found[0].level.timestep;
    let at_first: Vec<_> = found.iter().zip(&means).filter(|(s, _)| s.level.timestep == first).collect();
    let mut estimators: Vec<Estimator> = Vec::new();
    found.iter().filter(|s| s.level.timestep == first).for_each(|s| estimators.push(s.estimator));
    let series = estimators.iter().map(|e| Series {
        name: e.name(),
        points: (found.iter().zip(&means))
            .filter(|(s, _)| s.estimator == *e)
            .map(|(s, m)| Point { x: s.level.timestep as f64, y: m.ratio.mean, interval: (m.ratio.low, m.ratio.high) })
            .collect(),
        is_line: true,
    });
    let zero = (found[0].epsilon.len() as f64).sqrt().recip();
    let plot = Plot {
        title: format!("Mean of scores over their size: {prior}, {operator}"),
        x: Axis::new("timestep (noise grows to the right)", Scale::Linear),
        y: Axis::new("|| mean score || / root mean || score ||^2", Scale::Log),
        series: series.collect(),
        mark: Some((zero, "a mean of zero".into())),
    };
    let version = env!("CARGO_PKG_VERSION");
    let notes = vec![
        format!(
            "{} samples of {x_t}. Claims are about the first timestep, {first}; a mean differs from zero if the jackknife's \
             95 % interval of its share lies above 0. Ratios of a mean of zero are about {}.",
            found[0].epsilon.len(),
            figure(zero)
        ),
        "The published columns are those of mean_score.py: one x_t, the absolute mean over channels, its mean and \
         standard deviation over positions; this is not a mean over x_t."
            .into(),
    ];
    Report { finding: "score-mean", prior, operator, settings, rows, claims: claims(&at_first), notes, version, plot }
}

fn claims(found: &[(&Scores, &Mean)]) -> Vec<Claim> {
    let mut of_dps = Vec::new();
    let mut claims = Vec::new();
    for (scores, mean) in found {
        let share = &mean.share;
        let because = format!(
            "ratio {} +- {}, share of the mean {}, 95 % interval {} to {}",
            figure(mean.ratio.mean),
            figure(mean.ratio.standard_error),
            figure(share.mean),
            figure(share.low),
            figure(share.high)
        );
        let (claim, verdict) = match scores.estimator {
            Estimator::Posterior | Estimator::Cse => {
                let name = if scores.estimator == Estimator::Cse { "CSE's" } else { "the posterior" };
                // Zero can't be proven; it is contradicted or not.
                let verdict = if share.low > 0.0 { Verdict::DoesNotHold } else { Verdict::Holds };
                (format!("No mean of {name} score is found"), verdict)
            }
            Estimator::Unconditional => {
                ("The mean of the unconditional score differs from zero".into(), share.above(0.0))
            }
            Estimator::Dps(zeta) => {
                of_dps.push(share.above(0.0));
                (format!("The mean of DPS's score with zeta {zeta} differs from zero"), share.above(0.0))
            }
        };
        claims.push(Claim { claim, verdict, because });
    }
    let of_reference: Vec<&Claim> = claims.iter().filter(|c| c.claim.starts_with("No mean")).collect();
    let both: Vec<Verdict> = of_dps.iter().copied().chain(of_reference.iter().map(|c| c.verdict)).collect();
    let because = match of_reference.first() {
        Some(reference) => format!("of a conditional score: {}", reference.because),
        None => "there is no conditional score to compare with".into(),
    };
    let claim = "Claim 2, the mean of DPS's score differs from zero and that of a conditional score does not".into();
    let verdict = if of_reference.is_empty() { Verdict::NotDecided } else { Verdict::all(&both) };
    claims.push(Claim { claim, verdict, because });
    claims
}
