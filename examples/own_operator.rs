//! Two operators of one's own, restored by DMAP: a blur, which gives its spectrum, and a picture of
//! half the size whose missing pixels are known.
//!
//!     cargo run --release --example own_operator

use dmap::backend::Device;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId};
use dmap::model::Model;
use dmap::operator::{Observed, Operator, Spectrum};
use dmap::ops::axis_filter::{Axis, AxisFilter, Taps};
use dmap::ops::mask::Mask;
use dmap::ops::resample::Pool;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings};
use std::f64::consts::PI;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The mean of a pixel and its neighbours to the left and right, the edges repeated: a camera that
/// moved sideways.
#[derive(Debug)]
pub struct Sideways;

impl Operator for Sideways {
    fn task(&self) -> String {
        "sideways".into()
    }
    // The adjoint follows from the ops' VJPs.
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> dmap::Result<TensorId> {
        let w = g.shape(x).w;
        let row = |i: usize| [i.saturating_sub(1), i, (i + 1).min(w - 1)].map(|j| (j, 1.0 / 3.0)).to_vec();
        let taps = Taps { rows: (0..w).map(row).collect(), inputs: w };
        g.one(AxisFilter { axis: Axis::Width, taps: Arc::new(taps) }, "operator.sideways", &[x])
    }
    // Diagonal in the cosine transform: a cosine of frequency f becomes (1 + 2 cos f) / 3 of it. So
    // the residual is whitened, and detail that the blur all but removed counts too.
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::cosine(|x, _| {
            let of_column = |l: usize| ((1.0 + 2.0 * (PI * l as f64 / x.w as f64).cos()) / 3.0).powi(2);
            (0..x.h * x.w).map(|i| of_column(i % x.w)).collect()
        }))
    }
}

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
    fn observed<'a>(&self, _: Shape, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> dmap::Result<TensorId> {
        let mask = state.ok_or_else(|| dmap::Error::Invalid("lossy-half needs its mask".into()))?;
        let half = g.one(Pool { gain: 0.25 }, "operator.half", &[x])?;
        g.one(Mask, "operator.mask", &[half, mask])
    }
}

pub fn main() -> dmap::Result<()> {
    let model = Model::shipped()?;
    let image = Shape::new(1, 32, 32, 3);
    let value = |p: usize| ((p % 32) as f32 / 5.0).sin() * ((p / 32) as f32 / 8.0).cos() * 0.7;
    let photo: Vec<f32> = (0..image.numel()).map(|i| value(i / 3)).collect();
    let operators: [Arc<dyn Operator>; 2] = [Arc::new(Sideways), Arc::new(LossyHalf)];
    for operator in operators {
        let noise = Noise::Gaussian(0.025);
        let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &photo, noise, 1)?;
        let noise_norm = measurement.noise_norm;

        let settings = Settings::parse("dmap", &model.network.prior())?;
        let mut restorer = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu())?;
        let restored = restorer.restore(&[Item::new(measurement, 1)], |_| ControlFlow::Continue(()))?;
        println!("{}: residual {:.2}, the noise has {noise_norm:.2}", operator.task(), restored[0].residual);
        assert!(restored[0].residual < 1.5 * noise_norm, "the image explains its measurement");
    }
    Ok(())
}
