//! Operators run on the CPU, as the tests of their values need it.

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId, backward};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::operator::Operator;
use dmap::sampler::Measurer;
use dmap::weights::Weights;

/// A smooth picture with some noise, in [-1, 1].
pub fn picture(image: Shape) -> Vec<f32> {
    let mut values = vec![0.0; image.numel()];
    fill_normal(&NoiseKey { seed: 4, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    for (k, v) in values.iter_mut().enumerate() {
        let (row, column, c) = ((k / image.c / image.w) as f32, (k / image.c % image.w) as f32, (k % image.c) as f32);
        *v = 0.5 * (0.3 * row + 0.2 * column * (1.0 + c)).sin() + 0.2 * (0.7 * column - 0.5 * row).cos() + 0.05 * *v;
    }
    values
}

pub fn measured(operator: &dyn Operator, image: Shape, x: &[f32]) -> Vec<f32> {
    let state = operator.draw_state(image, 3).unwrap();
    Measurer::new(operator, image).unwrap().apply(x, &state).unwrap()
}

/// An operator and its reverse, for one image.
pub struct Reverse {
    executor: Executor,
    x: TensorId,
    state: Option<TensorId>,
    dy: TensorId,
    y: TensorId,
    dx: TensorId,
}

impl Reverse {
    pub fn new(operator: &dyn Operator, image: Shape) -> Reverse {
        let mut graph = Graph::new();
        let x = graph.input("x", image);
        let state = operator.state_shape(image).map(|s| graph.input("state", s));
        let y = operator.build(&mut graph, x, state).unwrap();
        let shape = graph.shape(y);
        let dy = graph.input("dy", shape);
        let dx = backward(&mut graph, y, dy, x).unwrap();
        graph.output(y);
        graph.output(dx);
        let executor = Executor::new(graph, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
        Reverse { executor, x, state, dy, y, dx }
    }

    /// A(x) and A^T g at x.
    pub fn run(&mut self, x: &[f32], state: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let e = &mut self.executor;
        e.write(self.x, x).unwrap();
        e.write(self.dy, g).unwrap();
        if let Some(id) = self.state {
            e.write(id, state).unwrap();
        }
        e.run().unwrap();
        (e.read(self.y).unwrap(), e.read(self.dx).unwrap())
    }
}

/// A^T g at x, with the state that [`measured`] takes.
pub fn vjp(operator: &dyn Operator, image: Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    Reverse::new(operator, image).run(x, &operator.draw_state(image, 3).unwrap(), g).1
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}
