//! Samples of the methods that are compared, and the search for their step sizes.

use super::chain::{ChainMethod, Levels};
use super::options::Options;
use super::problem::{Problem, Signal};
use super::report::Row;
use super::work::{Watch, in_parallel};
use crate::error::Result;
use crate::model::NoiseSchedule;
use crate::sampler::{Schedule, Spacing};

/// Signals for the search of step sizes have numbers from here on: they are not those that are
/// reported.
const FIRST_TUNING_SIGNAL: u32 = 1 << 24;

/// Step sizes of the first search: this many from the first to the last, evenly spaced in the
/// logarithm.
const STEP_SIZES: (usize, f64, f64) = (9, 0.01, 30.0);

/// Methods, each with its samples of each signal.
pub struct Sampled {
    /// The methods.
    pub methods: Vec<ChainMethod>,
    /// The signals.
    pub signals: Vec<Signal>,
    /// Samples by signal and method.
    pub samples: Vec<Vec<Vec<Vec<f64>>>>,
}

impl ChainMethod {
    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            ChainMethod::Exact => "exact draws".into(),
            ChainMethod::Ancestral => "exact score".into(),
            ChainMethod::Dps { zeta } => format!("DPS {}", rounded(zeta)),
            ChainMethod::Dmap { k, zeta } => format!("DMAP k={k} {}", rounded(zeta)),
        }
    }

    /// The same with another step size.
    fn with_zeta(self, zeta: f64) -> ChainMethod {
        match self {
            ChainMethod::Dps { .. } => ChainMethod::Dps { zeta },
            ChainMethod::Dmap { k, .. } => ChainMethod::Dmap { k, zeta },
            other => other,
        }
    }
}

/// A step size with three digits that count.
fn rounded(zeta: f64) -> f64 {
    let scale = 10f64.powf(2.0 - zeta.log10().floor());
    (zeta * scale).round() / scale
}

/// The levels of the chains.
pub fn schedule(options: &Options) -> Result<Schedule> {
    Schedule::new(NoiseSchedule::Linear, 1000, options.levels, Spacing::Quadratic)
}

/// Samples of all methods on all signals. DPS and DMAP take the given step sizes or the best of a
/// search by the error of the mean of samples, on signals of their own.
pub fn samples(problem: &Problem, options: &Options, watch: Watch<'_>) -> Result<Sampled> {
    let levels = Levels::new(problem, schedule(options)?);
    let mut methods = vec![ChainMethod::Exact, ChainMethod::Ancestral];
    let families = [
        (ChainMethod::Dps { zeta: 0.0 }, options.dps_zeta, true),
        (ChainMethod::Dmap { k: options.k, zeta: 0.0 }, options.dmap_zeta, options.with_dmap),
    ];
    for (family, given, _) in families.into_iter().filter(|f| f.2) {
        let zeta = given.map_or_else(|| best_step_size(&levels, problem, family, watch), Ok)?;
        methods.push(family.with_zeta(zeta));
    }
    let signals: Vec<Signal> = (0..options.signals).map(|i| problem.signal(i)).collect();
    let count = methods.len();
    let part = |k: usize| {
        let (index, method) = (k / count, methods[k % count]);
        levels.sample(method, index as u32, &signals[index], options.samples, 4 + (k % count) as u32)
    };
    let mut found = in_parallel(signals.len() * count, watch, part)?.into_iter();
    let samples = signals.iter().map(|_| found.by_ref().take(count).collect()).collect();
    Ok(Sampled { methods, signals, samples })
}

/// The step size with the least mean logarithm of the squared error of the mean of samples: the
/// logarithm, so that one signal of a heavy-tailed law does not decide.
fn best_step_size(levels: &Levels<'_>, problem: &Problem, family: ChainMethod, watch: Watch<'_>) -> Result<f64> {
    let (signals, samples) = if problem.prior.is_sampled() { (3, 6) } else { (8, 10) };
    size_of_least_error(|sizes| {
        let error = |k: usize| {
            let (size, index) = (sizes[k / signals], FIRST_TUNING_SIGNAL + (k % signals) as u32);
            let signal = problem.signal(index);
            let drawn = levels.sample(family.with_zeta(size), index, &signal, samples, 2);
            squared_error(&mean(&drawn), &signal.x).ln()
        };
        let errors = in_parallel(sizes.len() * signals, watch, error)?;
        Ok(errors.chunks(signals).map(|errors| errors.iter().sum()).collect())
    })
}

/// The step size with the least error: first among all sizes, then around the best one.
fn size_of_least_error(mut errors: impl FnMut(&[f64]) -> Result<Vec<f64>>) -> Result<f64> {
    let (count, first, last) = STEP_SIZES;
    let ratio = (last / first).powf(1.0 / (count - 1) as f64);
    let all: Vec<f64> = (0..count).map(|j| rounded(first * ratio.powi(j as i32))).collect();
    let (size, error) = least(&all, &errors(&all)?);
    let around = [-2.0, -1.0, 1.0, 2.0].map(|thirds| rounded(size * ratio.powf(thirds / 3.0)));
    let (closer, closer_error) = least(&around, &errors(&around)?);
    Ok(if closer_error < error { closer } else { size })
}

/// The size with the least error, the first of equal ones, and that error.
fn least(sizes: &[f64], errors: &[f64]) -> (f64, f64) {
    // A chain that ran away has an error that is not a number; it is never the best.
    let error = |&e: &f64| if e.is_nan() { f64::INFINITY } else { e };
    let all = sizes.iter().copied().zip(errors.iter().map(error));
    all.min_by(|a, b| a.1.total_cmp(&b.1)).expect("a search has sizes")
}

/// The mean of samples.
pub fn mean(samples: &[Vec<f64>]) -> Vec<f64> {
    let mut mean = vec![0.0; samples[0].len()];
    for s in samples {
        mean.iter_mut().zip(s).for_each(|(m, s)| *m += s / samples.len() as f64);
    }
    mean
}

/// mean((a - b)^2)
pub fn squared_error(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// The unbiased standard deviation over samples at each position, then its mean over positions.
pub fn mean_standard_deviation(samples: &[Vec<f64>]) -> f64 {
    let (centre, n) = (mean(samples), samples.len() as f64);
    let at = |i: usize| (samples.iter().map(|s| (s[i] - centre[i]).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    (0..centre.len()).map(at).sum::<f64>() / centre.len() as f64
}

/// The settings of chains that determine their samples.
pub fn settings(problem: &Problem, options: &Options) -> Row {
    Row::default()
        .with("signals", options.signals)
        .with("samples", options.samples)
        .with("levels", options.levels)
        .with("dps_zeta", options.dps_zeta)
        .with("dmap_zeta", options.dmap_zeta)
        .with("noise_variance", problem.variance)
        .with("seed", problem.seed)
}

/// What a reader of a table of methods has to know.
pub const ABOUT_METHODS: &str = "`exact score` is ancestral sampling with the exact posterior score: what it lacks is the \
                                 error of few levels. A step size that was not given is the one whose samples have the \
                                 mean of least error on other signals.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_size_of_least_error_is_found_in_two_stages() {
        let found = |error: fn(f64) -> f64| size_of_least_error(|sizes| Ok(sizes.iter().map(|&s| error(s)).collect()));
        // The sizes of the first stage around 2 are 1.49 and 4.05. The second one adds 2.08.
        assert_eq!(found(|s| (s / 2.0).ln().abs()).unwrap(), 2.08);
        assert_eq!(found(|s| (s / 1.49).ln().abs()).unwrap(), 1.49);
        // Chains with larger steps run away. The NaN of an x86 CPU has a sign.
        for nan in [f64::NAN, -f64::NAN] {
            let error = |&s: &f64| if s > 2.0 { nan } else { -s };
            assert_eq!(size_of_least_error(|sizes| Ok(sizes.iter().map(error).collect())).unwrap(), 1.49);
        }
    }
}
