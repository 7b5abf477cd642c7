//! What a method of sampling is: the graphs that it records, and the order in which it runs them at a level.

use super::chain::{Chain, Machine};
use super::phases::Phases;
use super::schedule::Schedule;
use crate::error::Result;
use crate::model::Prior;
use crate::operator::Operator;
use std::fmt::Debug;

/// Where a chain starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Start {
    /// From noise of the first level.
    Noise,
    /// From the [baseline](super::baseline): bicubic, the nearest known pixels, or y itself. Of pixel models only.
    Baseline,
}

/// What kind of answer a method gives: what `--estimate` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// One best image, near the maximum or the mean of the posterior.
    Map,
    /// A draw from the posterior: other seeds give other images.
    Sample,
}

/// A method of sampling with its options.
pub trait Method: Debug + Send + Sync {
    /// The method as it is typed, options included: `dmap:k=5,step=polyak:0.4`.
    fn method(&self) -> String;

    /// What kind of answer it gives.
    fn answer(&self) -> Answer {
        Answer::Sample
    }

    /// What x is before the first step.
    fn start(&self) -> Start {
        Start::Noise
    }

    /// sigma of the first and of the last step in VE coordinates, in [-1, 1] units, evenly in the logarithm between: for methods
    /// that choose their levels themselves. None takes those of the settings' spacing.
    fn sigmas(&self) -> Option<(f64, f64)> {
        None
    }

    /// True if it draws from p(x_{t-1} | x_t), whose variance the settings choose.
    fn reads_variance(&self) -> bool {
        true
    }

    /// Fails on options, a model, an operator or a schedule that it can't work with.
    fn check(&self, _prior: &Prior, _operator: &dyn Operator, _schedule: &Schedule) -> Result<()> {
        Ok(())
    }

    /// Records the graphs of a step.
    fn record(&self, phases: &mut Phases<'_>) -> Result<()>;

    /// Takes x from a level to the one before it. A method of one graph runs its phase `step` once.
    fn run(&self, chain: &mut Chain<'_>) -> Result<()> {
        chain.run("step")
    }

    /// What to change where the values of a run grow without end.
    fn advice(&self) -> Option<&'static str> {
        None
    }
}

/// The name in a method as it is typed.
pub fn name(method: &dyn Method) -> String {
    let typed = method.method();
    typed.split(':').next().unwrap_or_default().to_string()
}

/// How often each phase runs at each level, the last level first, without running anything.
pub fn runs(method: &dyn Method, machine: &mut Machine) -> Result<Vec<Vec<usize>>> {
    let levels = 0..machine.levels().len();
    let rehearse = |i: usize| {
        let mut chain = machine.rehearsal(i);
        method.run(&mut chain)?;
        chain.finish()
    };
    levels.map(rehearse).collect()
}

/// Network passes of one image: forward evaluations plus VJPs.
pub fn network_passes(method: &dyn Method, machine: &mut Machine) -> Result<usize> {
    let runs = runs(method, machine)?;
    let of_level = |runs: &Vec<usize>| runs.iter().zip(machine.phases()).map(|(n, p)| n * p.passes).sum::<usize>();
    Ok(runs.iter().map(of_level).sum())
}
