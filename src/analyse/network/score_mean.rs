//! Means of scores over the chains that they drive: for each estimator, chains of ancestral
//! sampling with its score, over seeds. At the first timestep all chains have the same x_T ~ N(0,
//! I), which is p(x_T | y) but for the last trace of the image.

use super::NetworkProblem;
use super::evaluator::{Evaluator, ancestral_step, noise};
use crate::analyse::options::Options;
use crate::analyse::score_error::{Estimator, compared_levels, dps_epsilon};
use crate::analyse::score_mean::Scores;
use crate::analyse::work::{Watch, check};
use crate::error::Result;
use crate::noise::Draw;
use crate::sampler::{Schedule, Spacing};

/// Scores of the prior, of DPS and of the estimator, if there is one, at `options.points` of
/// `options.levels` levels over `options.samples` chains each.
pub fn scores(problem: &NetworkProblem<'_>, options: &Options, watch: Watch<'_>) -> Result<Vec<Scores>> {
    let prior = problem.model.network.prior();
    let (training, total) = (prior.noise_schedule, prior.diffusion_steps);
    let levels = compared_levels(training, total, options.levels)?;
    let schedule = Schedule::new(training, total, options.levels, Spacing::Linear)?;
    let points = options.points.min(levels.len());
    let kept: Vec<usize> = (0..points).map(|p| p * (levels.len() - 1) / (points - 1).max(1)).collect();
    let canvas = prior.canvas(problem.image);
    let conditional = problem.cse.or(problem.reference);
    let estimators = (conditional.map(|_| Estimator::Cse).into_iter())
        .chain([Estimator::Unconditional])
        .chain(options.zetas.iter().map(|&z| Estimator::Dps(z)));
    let estimators: Vec<Estimator> = estimators.collect();
    let mut all = Vec::new();
    let (samples, count) = (options.samples as usize, estimators.len());
    for (e, &estimator) in estimators.iter().enumerate() {
        let is_dps = matches!(estimator, Estimator::Dps(_));
        let model = conditional.filter(|_| estimator == Estimator::Cse).unwrap_or(problem.model);
        let mut evaluator = Evaluator::new(problem, model, &schedule, is_dps)?;
        let mut found: Vec<Scores> = (kept.iter())
            .map(|&k| Scores { estimator, level: levels[k], epsilon: Vec::new(), channels: canvas.c })
            .collect();
        for chain in 0..samples {
            check(watch, e * samples + chain, count * samples)?;
            let mut x = noise(problem.seed, chain as u32, 0, Draw::Start, canvas);
            for (k, level) in levels.iter().enumerate() {
                let i = levels.len() - 1 - k;
                let raw = evaluator.at(i, &x)?;
                let own = match estimator {
                    Estimator::Dps(zeta) => dps_epsilon(&raw.epsilon, &raw.gradient, zeta, level.beta, level.alpha_bar),
                    _ => raw.epsilon,
                };
                let n = noise(problem.seed, chain as u32, i, Draw::Ancestral, canvas);
                x = ancestral_step(&evaluator.level(i), &x, &own, &n, prior.latent.is_some());
                if let Some(p) = kept.iter().position(|&kept| kept == k) {
                    found[p].epsilon.push(own);
                }
            }
        }
        all.push(found);
    }
    // By level, the strongest noise first, as for priors with a known posterior.
    let mut by_level = Vec::new();
    for _ in 0..kept.len() {
        by_level.extend(all.iter_mut().map(|found| found.remove(0)));
    }
    Ok(by_level)
}
