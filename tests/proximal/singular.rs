//! DDRM along the singular vectors of an operator of one's own.

use crate::oracle::SEED;
use dmap::backend::Device;
use dmap::compare::relative_error;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId};
use dmap::model::Model;
use dmap::operator::{AxisKernel, Operator, SeparableBlur, Spectrum, parse_task};
use dmap::ops::axis_filter::{Axis, AxisFilter, Taps};
use dmap::ops::filter2d::Boundary;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings};
use std::f64::consts::PI;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What an operator says about its spectrum.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    Cosine,
    Axes,
}

/// The mean of a pixel and its neighbours to the left and right, the edges repeated.
#[derive(Debug)]
struct Sideways(Known);

impl Sideways {
    fn taps(w: usize) -> Taps {
        let row = |i: usize| [i.saturating_sub(1), i, (i + 1).min(w - 1)].map(|j| (j, 1.0 / 3.0)).to_vec();
        Taps { rows: (0..w).map(row).collect(), inputs: w }
    }
}

impl Operator for Sideways {
    fn task(&self) -> String {
        "sideways".into()
    }
    fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> dmap::Result<TensorId> {
        let taps = Arc::new(Sideways::taps(g.shape(x).w));
        g.one(AxisFilter { axis: Axis::Width, taps }, "operator.sideways", &[x])
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        match self.0 {
            Known::Nothing => None,
            Known::Cosine => Some(Spectrum::cosine(|x, _| {
                let of_column = |l: usize| ((1.0 + 2.0 * (PI * l as f64 / x.w as f64).cos()) / 3.0).powi(2);
                (0..x.h * x.w).map(|i| of_column(i % x.w)).collect()
            })),
            Known::Axes => Some(Spectrum::separable(|x| {
                let same = Taps { rows: (0..x.h).map(|i| vec![(i, 1.0)]).collect(), inputs: x.h };
                [same, Sideways::taps(x.w)]
            })),
        }
    }
}

/// A blur whose image goes on around its edges, with its singular vectors in place of its
/// frequencies.
#[derive(Debug)]
struct ByAxes(SeparableBlur);

impl Operator for ByAxes {
    fn task(&self) -> String {
        self.0.task()
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> dmap::Result<TensorId> {
        self.0.build(g, x, state)
    }
    fn spectrum(&self) -> Option<Spectrum<'_>> {
        Some(Spectrum::separable(|x| [x.h, x.w].map(|n| self.0.map(n))))
    }
}

#[test]
fn ddrm_refuses_an_operator_without_an_exact_spectrum() {
    let prior = Model::shipped().unwrap().network.prior();
    let settings = Settings::parse("ddrm", &prior).unwrap();
    let blur = parse_task("motion-blur:size=5").unwrap();
    for operator in [&Sideways(Known::Nothing), blur.as_ref()] {
        let said = settings.check(&prior, operator).unwrap_err().to_string();
        let expected = format!("which {} does not give; dmap, dps and, where it is linear, dpir work", operator.task());
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn ddrm_restores_the_same_by_any_singular_vectors_and_beyond_a_canvas() {
    let model = Model::shipped().unwrap();
    // Not a multiple of the network's size: the canvas is larger.
    let image = Shape::new(1, 13, 20, 3);
    let settings = Settings::parse("ddrm", &model.network.prior()).unwrap().steps(5);
    let restored = |operator: Arc<dyn Operator>| {
        let x: Vec<f32> = (0..image.item()).map(|i| (i as f32 * 0.1).sin() * 0.5).collect();
        let m = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(0.02), 1).unwrap().0;
        let mut restorer =
            Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
        assert_ne!(restorer.canvas(), image);
        restorer.set_poison(true);
        let items = [Item::new(m, SEED)];
        restorer.restore(&items, |_| ControlFlow::Continue(())).unwrap().remove(0).picture.values
    };
    let sideways = |known| restored(Arc::new(Sideways(known)));
    let error = relative_error(&sideways(Known::Axes), &sideways(Known::Cosine));
    assert!(error < 1e-3, "{error:.1e}");
    let blur = || SeparableBlur { kernel: AxisKernel::Gaussian(1.0), size: 7, boundary: Some(Boundary::Circular) };
    let error = relative_error(&restored(Arc::new(ByAxes(blur()))), &restored(Arc::new(blur())));
    assert!(error < 1e-3, "around the edges: {error:.1e}");
}
