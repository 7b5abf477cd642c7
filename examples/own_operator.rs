//! An operator of one's own: a picture of half the size whose missing pixels are known, restored by DMAP.
//!
//!     cargo run --release --example own_operator

use dmap::backend::Device;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId};
use dmap::model::Model;
use dmap::operator::{Observed, Operator};
use dmap::ops::mask::Mask;
use dmap::ops::resample::Pool;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The mean of 2x2 pixels, and of those every third one is lost.
#[derive(Debug)]
struct LossyHalf;

impl Operator for LossyHalf {
    fn task(&self) -> String {
        "lossy-half".into()
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { h: x.h / 2, w: x.w / 2, ..x }
    }
    fn image_shape(&self, y: Shape) -> Shape {
        Shape { h: y.h * 2, w: y.w * 2, ..y }
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape { c: 1, ..self.measurement_shape(x) })
    }
    fn draw_state(&self, x: Shape, _seed: u64) -> dmap::Result<Vec<f32>> {
        let count = self.measurement_shape(x).numel() / x.c;
        Ok((0..count).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect())
    }
    // Lost pixels have no noise, and are not counted in its norm.
    fn observed<'a>(&self, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }
    // The adjoint follows from the ops' VJPs.
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> dmap::Result<TensorId> {
        let mask = state.ok_or_else(|| dmap::Error::Invalid("lossy-half needs its mask".into()))?;
        let half = g.one(Pool { gain: 0.25 }, "operator.half", &[x])?;
        g.one(Mask, "operator.mask", &[half, mask])
    }
}

pub fn main() -> dmap::Result<()> {
    let model = Model::shipped()?;
    let operator: Arc<dyn Operator> = Arc::new(LossyHalf);
    let image = Shape::new(1, 32, 32, 3);
    let photo: Vec<f32> = (0..image.numel()).map(|i| (i as f32 / 40.0).sin() * 0.7).collect();
    let noise = Noise::Gaussian(0.025);
    let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &photo, noise, 1)?;
    let noise_norm = measurement.noise_norm;

    let settings = Settings::parse("dmap", &model.network.prior())?;
    let mut restorer = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu())?;
    let item = Item::new(measurement, 1);
    let restored = restorer.restore(&[item], |_| ControlFlow::Continue(()))?;
    println!("residual {:.2}, the noise has {noise_norm:.2}", restored[0].residual);
    assert!(restored[0].residual < 1.5 * noise_norm, "the image explains its measurement");
    Ok(())
}
