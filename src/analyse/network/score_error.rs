//! Distance of scores from that of a conditional model, along chains of that model.

use super::NetworkProblem;
use super::evaluator::{Evaluator, ancestral_step, noise};
use crate::analyse::options::Options;
use crate::analyse::score_error::{Distances, Estimator, compared_levels, distance, dps_epsilon};
use crate::analyse::work::{Watch, check};
use crate::error::{Error, Result};
use crate::noise::Draw;
use crate::sampler::{Schedule, Spacing};

/// Runs `options.signals` chains of ancestral sampling with the reference, and measures the
/// distances at each of their `options.levels` levels. Fails without a reference, or if it has
/// another shape or schedule than the prior.
pub fn distances(problem: &NetworkProblem<'_>, options: &Options, watch: Watch<'_>) -> Result<Distances> {
    let Some(reference) = problem.reference else {
        return Err(Error::Invalid(
            "score-error of a network needs a conditional model to compare with: give --reference or --reference-cse"
                .into(),
        ));
    };
    let prior = problem.model.network.prior();
    let other = reference.network.prior();
    if (other.channels, other.noise_schedule, other.diffusion_steps, other.latent)
        != (prior.channels, prior.noise_schedule, prior.diffusion_steps, prior.latent)
    {
        return Err(Error::Invalid(format!(
            "the reference {} has other channels, latents or another noise schedule than {}",
            reference.name, problem.model.name
        )));
    }
    let (training, total) = (prior.noise_schedule, prior.diffusion_steps);
    let levels = compared_levels(training, total, options.levels)?;
    let schedule = Schedule::new(training, total, options.levels, Spacing::Linear)?;
    let mut of_reference = Evaluator::new(problem, reference, &schedule, false)?;
    let mut of_prior = Evaluator::new(problem, problem.model, &schedule, true)?;
    let mut of_cse = problem.cse.map(|model| Evaluator::new(problem, model, &schedule, false)).transpose()?;
    let dps = options.zetas.iter().map(|&z| Estimator::Dps(z));
    let cse = problem.cse.map(|_| Estimator::Cse);
    let estimators: Vec<Estimator> = [Estimator::Unconditional].into_iter().chain(dps).chain(cse).collect();
    let canvas = prior.canvas(problem.image);
    let mut values = Vec::new();
    for chain in 0..options.signals {
        let mut x = noise(problem.seed, chain, 0, Draw::Start, canvas);
        let mut of_chain = Vec::new();
        for (k, level) in levels.iter().enumerate() {
            check(watch, chain as usize * levels.len() + k, options.signals as usize * levels.len())?;
            let i = levels.len() - 1 - k;
            let truth = of_reference.at(i, &x)?.epsilon;
            let found = of_prior.at(i, &x)?;
            let mut distances = Vec::new();
            for estimator in &estimators {
                let own = match (estimator, &mut of_cse) {
                    (Estimator::Dps(zeta), _) => {
                        dps_epsilon(&found.epsilon, &found.gradient, *zeta, level.beta, level.alpha_bar)
                    }
                    (Estimator::Cse, Some(cse)) => cse.at(i, &x)?.epsilon,
                    _ => found.epsilon.clone(),
                };
                distances.push(distance(&own, &truth, level.alpha_bar));
            }
            of_chain.push(distances);
            let n = noise(problem.seed, chain, i, Draw::Ancestral, canvas);
            x = ancestral_step(&of_reference.level(i), &x, &truth, &n, prior.latent.is_some());
        }
        values.push(of_chain);
    }
    Ok(Distances { estimators, levels, values, reference_error: Vec::new() })
}
