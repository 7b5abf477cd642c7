//! A method of one's own: DPS that descends twice at every level, the second time from where the
//! first descent ended.
//!
//!     cargo run --release --example own_method

use dmap::backend::Device;
use dmap::graph::{PlanOptions, Shape};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::sampler::{Chain, Guidance, Item, Measurement, Method, Noise, Phases, Restorer, Settings, StepRule};
use std::ops::ControlFlow;
use std::sync::Arc;

#[derive(Debug)]
struct TwoDescents {
    /// Share of the sphere's radius that a step takes at most.
    share: f64,
}

impl Method for TwoDescents {
    fn method(&self) -> String {
        format!("two-descents:share={}", self.share)
    }

    fn record(&self, phases: &mut Phases<'_>) -> dmap::Result<()> {
        phases.add("step", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?; // E[x_0 | x_t]
            let residual = s.residual(estimate.x0, &Guidance::PLAIN)?; // || A(x0) - y ||
            let p = s.posterior(estimate)?; // p(x_{t-1} | x_t)
            let gradient = s.gradient(residual, x)?;
            let next = s.descend(p.sample, gradient, residual, StepRule::Polyak(self.share), |_| 1.0)?;
            s.report(residual);
            s.set_x(next);
            Ok(())
        })?;
        // At the level that the first descent has led to.
        phases.add("again", |s| {
            let x = s.x();
            let estimate = s.estimate(x)?;
            let residual = s.residual(estimate.x0, &Guidance::PLAIN)?;
            let gradient = s.gradient(residual, x)?;
            let next = s.descend(x, gradient, residual, StepRule::Polyak(self.share), |_| 1.0)?;
            s.set_x(next);
            Ok(())
        })
    }

    fn run(&self, chain: &mut Chain<'_>) -> dmap::Result<()> {
        chain.run("step")?;
        chain.run_at("again", chain.level.index.saturating_sub(1))
    }
}

pub fn main() -> dmap::Result<()> {
    let model = Model::shipped()?;
    let operator = parse_task("inpaint-random:missing=0.5")?;
    let image = Shape::new(1, 32, 32, 3);
    let photo: Vec<f32> = (0..image.numel()).map(|i| (i as f32 / 40.0).sin() * 0.7).collect();
    let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &photo, Noise::Gaussian(0.025), 1)?;
    let noise_norm = measurement.noise_norm;

    let settings = Settings::new(Arc::new(TwoDescents { share: 0.3 }), 12);
    let mut restorer = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu())?;
    let item = Item::new(measurement, 1);
    let restored = restorer.restore(&[item], |now| {
        println!("step {} of {}, residual {:.2}", now.step, now.steps, now.residual[0]);
        ControlFlow::Continue(())
    })?;
    let (passes, residual) = (restorer.network_passes()?, restored[0].residual);
    println!("{passes} network passes, residual of the image {residual:.2}, the noise has {noise_norm:.2}");
    assert!(residual < 1.5 * noise_norm, "the image explains its measurement");
    Ok(())
}
