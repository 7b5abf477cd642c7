//! Operators run on the CPU, as the tests of their values need it.

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
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

/// A^T g at x, with the state that [`measured`] takes.
pub fn vjp(operator: &dyn Operator, image: Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    with_vjp(operator, image, x, &operator.draw_state(image, 3).unwrap(), g).1
}

/// A(x) and A^T g at x.
pub fn with_vjp(operator: &dyn Operator, image: Shape, x: &[f32], state: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut graph = Graph::new();
    let input = graph.input("x", image);
    let kernel = operator.state_shape(image).map(|s| graph.input("state", s));
    let y = operator.build(&mut graph, input, kernel).unwrap();
    let shape = graph.shape(y);
    let dy = graph.input("dy", shape);
    let dx = backward(&mut graph, y, dy, input).unwrap();
    graph.output(y);
    graph.output(dx);
    let mut e = Executor::new(graph, &PlanOptions::default(), &Weights::none(), &Device::cpu()).unwrap();
    e.write(input, x).unwrap();
    e.write(dy, g).unwrap();
    if let Some(kernel) = kernel {
        e.write(kernel, state).unwrap();
    }
    e.run().unwrap();
    (e.read(y).unwrap(), e.read(dx).unwrap())
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}
