//! The naive restoration and the view of a measurement, by what an operator says about itself.

use dmap::graph::{Graph, Shape, TensorId};
use dmap::image::Picture;
use dmap::operator::{Observed, Operator, baseline, parse_task};
use dmap::ops::mask::Mask;
use dmap::ops::resample::Pool;
use dmap::report::view;
use dmap::sampler::Measurer;

/// Half the size, every third pixel lost.
#[derive(Debug)]
struct LossyHalf;

impl Operator for LossyHalf {
    fn task(&self) -> String {
        "lossy-half".into()
    }
    fn measurement_shape(&self, x: Shape) -> Shape {
        Shape { h: x.h / 2, w: x.w / 2, ..x }
    }
    fn state_shape(&self, x: Shape) -> Option<Shape> {
        Some(Shape { c: 1, ..self.measurement_shape(x) })
    }
    fn draw_state(&self, x: Shape, _: u64) -> dmap::Result<Vec<f32>> {
        Ok((0..x.h * x.w / 4).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect())
    }
    fn observed<'a>(&self, _: Shape, mask: &'a [f32]) -> Observed<'a> {
        Observed::Mask(mask)
    }
    fn build(&self, g: &mut Graph, x: TensorId, state: Option<TensorId>) -> dmap::Result<TensorId> {
        let half = g.one(Pool { gain: 0.25 }, "half", &[x])?;
        g.one(Mask, "mask", &[half, state.expect("it has one")])
    }
}

/// (name of the baseline, baseline, view) of a grey image.
fn of(operator: &dyn Operator, image: Shape) -> (&'static str, Picture, Picture) {
    let state = operator.draw_state(image, 3).unwrap();
    let shape = operator.measurement_shape(image);
    let values = Measurer::new(operator, image).unwrap().apply(&vec![0.5; image.numel()], &state).unwrap();
    let (name, naive) = baseline(operator, &values, &state, image);
    (name, naive, view(operator, &operator.picture(&values, shape), &state, image))
}

#[test]
fn a_baseline_and_a_view_have_the_image_s_size_and_follow_from_mask_and_extents() {
    let image = Shape::new(1, 24, 16, 3);
    let tasks = [
        ("sr4", "bicubic"),
        ("inpaint-random", "nearest pixel"),
        ("gaussian-blur", "measurement"),
        ("denoise", "measurement"),
    ];
    let known = tasks.map(|(task, name)| (parse_task(task).unwrap(), name));
    let own: [(std::sync::Arc<dyn Operator>, &str); 1] = [(std::sync::Arc::new(LossyHalf), "bicubic")];
    for (operator, expected) in known.into_iter().chain(own) {
        let (name, naive, seen) = of(operator.as_ref(), image);
        let task = operator.task();
        assert_eq!(name, expected, "{task}");
        for picture in [&naive, &seen] {
            assert_eq!((picture.height, picture.width, picture.values.len()), (24, 16, image.numel()), "{task}");
        }
        // A grey image stays grey, so missing pixels were filled before the measurement was
        // enlarged.
        assert!(naive.values.iter().all(|v| (v - 0.5).abs() < 1e-5), "{task}");
        // Missing pixels are black in the view, and only they.
        let black = seen.values.iter().filter(|v| **v == -1.0).count();
        let missing = match task.split(':').next().unwrap() {
            "inpaint-random" => 3 * 268,
            "lossy-half" => 3 * 32 * 4,
            _ => 0,
        };
        assert_eq!(black, missing, "{task}");
    }
}
