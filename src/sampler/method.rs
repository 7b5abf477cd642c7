//! The trait of a sampling method: it records graphs, and at each noise level it runs them in its
//! own order.

use super::chain::{Chain, Machine};
use super::phases::Phases;
use super::schedule::Schedule;
use super::setup::Setup;
use crate::error::Result;
use crate::model::Prior;
use crate::operator::Operator;
use std::fmt::Debug;

/// Value of x before the first step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Start {
    /// Normal noise of the first (noisiest) level.
    Noise,
    /// The [baseline](crate::operator::baseline()): bicubic resizing, the nearest known pixels, or y
    /// itself. For pixel models only.
    Baseline,
}

/// The kind of answer that a method gives, as `--estimate` selects it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// One best image, near the maximum or the mean of the posterior.
    Map,
    /// A draw from the posterior: other seeds give other images.
    Sample,
}

impl Answer {
    /// As flags, results and presets write it: `map` or `sample`.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Map => "map",
            Answer::Sample => "sample",
        }
    }
}

/// How a method uses a conditional score estimator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Conditioned {
    /// It is defined for the score of the prior alone.
    Never,
    /// It takes one in place of the prior's score, if there is one.
    Optional,
    /// It needs one.
    Always,
}

/// A method of sampling with its options.
pub trait Method: Debug + Send + Sync {
    /// The method with its options as the user types it: `dmap:k=5,step=polyak:0.4`.
    fn method(&self) -> String;

    /// The kind of answer that it gives.
    fn answer(&self) -> Answer {
        Answer::Sample
    }

    /// The value of x before the first step.
    fn start(&self) -> Start {
        Start::Noise
    }

    /// For a method that chooses its own noise levels: the sigmas of `steps` levels, the smallest
    /// first, in VE coordinates of images in [-1, 1]. `largest` is the largest sigma of the
    /// training schedule. None takes the levels of the settings' spacing.
    fn sigmas(&self, _steps: usize, _largest: f64) -> Option<Vec<f64>> {
        None
    }

    /// The number of noise levels above which the method restores less, if there is one: a budget
    /// of network passes gives no more.
    fn most_levels(&self) -> Option<usize> {
        None
    }

    /// Sigmas of the levels between a level of this sigma and the clean image at which the method
    /// evaluates the network, the smallest first. See [`Chain::run_inner`].
    fn inner_sigmas(&self, _sigma: f64) -> Vec<f64> {
        Vec::new()
    }

    /// How the method uses a conditional score estimator (`--cse`).
    fn conditioned(&self) -> Conditioned {
        Conditioned::Never
    }

    /// True if the method draws from p(x_{t-1} | x_t) with the variance that the settings choose.
    fn reads_variance(&self) -> bool {
        true
    }

    /// Fails if the method can't work with its options, the model, the operator or the schedule.
    fn check(&self, _prior: &Prior, _operator: &dyn Operator, _schedule: &Schedule) -> Result<()> {
        Ok(())
    }

    /// Records the graphs of a step.
    fn record(&self, phases: &mut Phases<'_>) -> Result<()>;

    /// Takes x from one noise level to the next lower one. By default, runs the phase `step` once.
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("step")
    }

    /// Advice to the user if the values of a run diverge.
    fn advice(&self) -> Option<&'static str> {
        None
    }
}

/// The name of a method, without its options.
pub fn name(method: &dyn Method) -> String {
    let typed = method.method();
    typed.split(':').next().unwrap_or_default().to_string()
}

/// A machine that counts the runs of a method's phases and can't run them.
pub fn rehearse(method: &dyn Method, setup: &Setup<'_>) -> Result<Machine> {
    let mut phases = Phases::new(setup);
    method.record(&mut phases)?;
    let inner = setup.inner_levels(|sigma| method.inner_sigmas(sigma))?;
    Ok(Machine::new(phases.finish(), Vec::new(), setup.levels(), inner))
}

/// Number of runs of each phase at each noise level, without running anything: one row per level,
/// least noise first.
pub fn runs(method: &dyn Method, machine: &mut Machine) -> Result<Vec<Vec<usize>>> {
    let levels = 0..machine.levels().len();
    let of_level = |i: usize| {
        let mut chain = machine.rehearsal(i);
        method.run(&mut chain)?;
        chain.finish()
    };
    levels.map(of_level).collect()
}

/// Network passes of so many runs of each phase: forward evaluations plus VJPs.
pub fn passes_of(runs: &[usize], machine: &Machine) -> usize {
    runs.iter().zip(machine.phases()).map(|(n, p)| n * p.passes).sum()
}

/// Network passes of one image: forward evaluations plus VJPs.
pub fn network_passes(method: &dyn Method, machine: &mut Machine) -> Result<usize> {
    let runs = runs(method, machine)?;
    Ok(runs.iter().map(|runs| passes_of(runs, machine)).sum())
}
