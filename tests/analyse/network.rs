//! The analyses of a network, on the prior inside the program.

use dmap::analyse::Options;
use dmap::analyse::network::evaluator::{Evaluator, ancestral_step, noise};
use dmap::analyse::network::{NetworkProblem, score_error};
use dmap::analyse::{Finding, score_error::Estimator};
use dmap::noise::Draw;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Schedule, Settings, Spacing};
use dmap::{Device, Model, Operator, PlanOptions, Shape, parse_task};
use std::ops::ControlFlow;
use std::sync::Arc;

const IMAGE: Shape = Shape { n: 1, h: 16, w: 16, c: 3 };

fn measured(operator: &Arc<dyn Operator>) -> Measurement {
    let values: Vec<f32> = (0..IMAGE.numel()).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
    Measurement::simulate(operator.as_ref(), IMAGE, &values, Noise::Gaussian(0.02), 3).unwrap().0
}

fn problem<'a>(
    model: &'a Model,
    operator: &'a Arc<dyn Operator>,
    measurement: &'a Measurement,
    device: &'a Device,
) -> NetworkProblem<'a> {
    let plan = PlanOptions::default();
    NetworkProblem { model, reference: None, cse: None, operator, measurement, image: IMAGE, seed: 3, plan, device }
}

#[test]
fn a_chain_driven_by_the_evaluated_score_is_that_of_the_sampler() {
    let (model, operator, device) = (Model::shipped().unwrap(), parse_task("sr4").unwrap(), Device::cpu());
    let measurement = measured(&operator);
    let problem = problem(&model, &operator, &measurement, &device);
    let prior = model.network.prior();
    let schedule = Schedule::new(prior.noise_schedule, prior.diffusion_steps, 4, Spacing::Linear).unwrap();
    let mut evaluator = Evaluator::new(&problem, &model, &schedule, true).unwrap();
    let mut x = noise(3, 0, 0, Draw::Start, IMAGE);
    for i in (0..4).rev() {
        let found = evaluator.at(i, &x).unwrap();
        assert!(found.gradient.iter().any(|g| *g != 0.0));
        let n = noise(3, 0, i, Draw::Ancestral, IMAGE);
        x = ancestral_step(&evaluator.level(i), &x, &found.epsilon, &n, false);
    }
    let settings = Settings::parse("unconditional", &prior).unwrap().steps(4).spacing(Spacing::Linear);
    let mut restorer = Restorer::new(&model, &operator, &settings, IMAGE, PlanOptions::default(), &device).unwrap();
    let item = Item::new(measurement.clone(), 3);
    let restored = restorer.restore(&[item], |_| ControlFlow::Continue(())).unwrap().remove(0);
    for (a, b) in x.iter().zip(&restored.picture.values) {
        assert!((a.clamp(-1.0, 1.0) - f64::from(*b)).abs() < 1e-3, "{a} is not {b}");
    }
}

#[test]
fn an_estimator_has_no_distance_from_itself_and_dps_one_that_grows_as_the_square() {
    let (model, operator, device) = (Model::shipped().unwrap(), parse_task("sr4").unwrap(), Device::cpu());
    let measurement = measured(&operator);
    let cse = Model::shipped().unwrap().with_shipped_control("sr4", 1.0).unwrap();
    let problem =
        NetworkProblem { reference: Some(&cse), cse: Some(&cse), ..problem(&model, &operator, &measurement, &device) };
    let options =
        Options { signals: 2, levels: 3, zetas: vec![100.0, 200.0], ..Options::of_network(Finding::ScoreError) };
    let found = score_error::distances(&problem, &options, &|_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(
        found.estimators,
        [Estimator::Unconditional, Estimator::Dps(100.0), Estimator::Dps(200.0), Estimator::Cse]
    );
    for level in found.values.iter().flatten() {
        assert!(level[3] == 0.0 && level[0] > 0.0, "{level:?}");
        assert!((level[2] / level[1] / 4.0 - 1.0).abs() < 0.2, "{level:?}");
    }
    let none = NetworkProblem { reference: None, ..problem };
    let refused = score_error::distances(&none, &options, &|_, _| ControlFlow::Continue(()));
    assert!(refused.err().unwrap().to_string().contains("--reference-cse"));
}
