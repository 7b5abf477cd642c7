//! Results that take the place of what they read, on the emulated device: gradients of weights that
//! two layers share, which are added up, and an optimiser's step on inputs that it overwrites. The
//! CPU is the reference.

use dmap::backend::Device;
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::compare::{compare, relative_error};
use dmap::executor::Executor;
use dmap::graph::{Dtype, Graph, PlanOptions, Shape, Target, TensorId, gradients};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use dmap::ops::adamw::BETAS;
use dmap::ops::adamw_step::AdamWStep;
use dmap::ops::conv::Conv;
use dmap::ops::group_norm::{GroupNorm, GroupNormOptions};
use dmap::ops::layer_norm::LayerNorm;
use dmap::ops::norm::SquaredSum;
use dmap::ops::storage_copy::StorageCopy;
use dmap::weights::Weights;

const IMAGE: Shape = Shape::new(2, 9, 7, 16);
/// Weight and bias of a convolution, then of a group norm and of a layer norm.
const PARAMETERS: [Shape; 6] = {
    let vector = Shape::vector(16);
    [Shape::new(16, 3, 3, 16), vector, vector, vector, vector, vector]
};

fn normal(number: u32, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed: 5, image: number, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    values
}

/// A graph with what the host writes before the first run.
#[derive(Default)]
struct Recorded {
    graph: Graph,
    writes: Vec<(TensorId, Vec<f32>)>,
}

impl Recorded {
    fn input(&mut self, name: &str, shape: Shape, values: Vec<f32>) -> TensorId {
        let id = self.graph.input(name, shape);
        self.writes.push((id, values));
        id
    }

    fn number(&mut self, name: &str, shape: Shape) -> TensorId {
        let number = self.writes.len() as u32;
        self.input(name, shape, normal(number, shape.numel()))
    }

    /// An input in the storage type of the run.
    fn stored(&mut self, name: &str, shape: Shape) -> TensorId {
        let input = self.number(name, shape);
        self.graph.one(StorageCopy, &format!("{name}.copy"), &[input]).unwrap()
    }

    /// A convolution, a group norm and a layer norm.
    fn layers(&mut self, x: TensorId, p: &[TensorId]) -> TensorId {
        let g = &mut self.graph;
        let y = g.one(Conv::new(3, 1), "conv", &[x, p[0], p[1]]).unwrap();
        let y = g.one(GroupNorm(GroupNormOptions::new(4, 1e-5, true)), "group", &[y, p[2], p[3]]).unwrap();
        g.one(LayerNorm { eps: 1e-5 }, "layer", &[y, p[4], p[5]]).unwrap()
    }
}

fn chips() -> impl Iterator<Item = (EmulatedChip, Device)> {
    EmulatedChip::ALL.into_iter().map(|chip| (chip, Device::emulated(Emulated::new(chip, chip as u64))))
}

#[test]
fn gradients_of_weights_that_two_layers_share_are_added_up_in_place() {
    let mut r = Recorded::default();
    let (x, v) = (r.stored("x", IMAGE), r.stored("v", IMAGE));
    let parameters = PARAMETERS.map(|shape| r.stored("parameter", shape));
    let once = r.layers(x, &parameters);
    let twice = r.layers(once, &parameters);
    let targets = parameters.map(|tensor| Target { tensor, addend: None });
    let found = gradients(&mut r.graph, twice, v, &targets).unwrap();
    found.iter().for_each(|&id| r.graph.output(id));
    let run = |options: &PlanOptions, device: &Device| -> Vec<Vec<f32>> {
        let mut e = Executor::new(r.graph.clone(), options, &Weights::none(), device).unwrap();
        e.set_poison(true);
        r.writes.iter().for_each(|(id, values)| e.write(*id, values).unwrap());
        e.run().unwrap();
        found.iter().map(|&id| e.read(id).unwrap()).collect()
    };
    let expected = run(&PlanOptions::default(), &Device::cpu());
    let (tf32, half, bf16) = (2f64.powi(-11), 2f64.powi(-11), 2f64.powi(-8));
    for (dtype, is_tf32, unit) in
        [(Dtype::F32, false, 1e-6), (Dtype::F32, true, tf32), (Dtype::F16, true, half), (Dtype::Bf16, true, bf16)]
    {
        let options = PlanOptions::default().storage(dtype).tf32(is_tf32);
        for (chip, device) in chips() {
            for (k, (found, expected)) in run(&options, &device).iter().zip(&expected).enumerate() {
                let error = relative_error(found, expected);
                assert!(error <= 16.0 * unit, "{chip:?}, {dtype:?}, TF32 {is_tf32}: gradient {k} by {error:.1e}");
            }
        }
    }
}

#[test]
fn an_optimisers_step_overwrites_its_inputs() {
    let mut r = Recorded::default();
    let (x, v) = (r.stored("x", IMAGE), r.stored("v", IMAGE));
    let weights = PARAMETERS.map(|shape| r.number("z", shape));
    let sums = PARAMETERS.map(|shape| r.input("g", shape, vec![0.0; shape.numel()]));
    let [m, of_v] = ["m", "v"].map(|name| PARAMETERS.map(|shape| r.input(name, shape, vec![0.0; shape.numel()])));
    let coefficients = r.graph.input("coefficients", Shape::rows(1, 6));
    let out = r.layers(x, &weights);
    let targets: Vec<Target> =
        weights.iter().zip(sums).map(|(&tensor, sum)| Target { tensor, addend: Some(sum) }).collect();
    let found = gradients(&mut r.graph, out, v, &targets).unwrap();
    let g = &mut r.graph;
    let mut squares: Option<TensorId> = None;
    for (&gradient, sum) in found.iter().zip(sums) {
        g.assign(sum, gradient).unwrap();
        let inputs: Vec<TensorId> = [gradient].into_iter().chain(squares).collect();
        squares = Some(g.one(SquaredSum, "squares", &inputs).unwrap());
    }
    let mut next = Vec::new();
    for k in 0..PARAMETERS.len() {
        let inputs = [weights[k], m[k], of_v[k], found[k], squares.unwrap(), coefficients];
        let outputs = g.add(AdamWStep { betas: BETAS }, "step", &inputs).unwrap();
        for (input, &output) in [weights[k], m[k], of_v[k], sums[k]].into_iter().zip(&outputs) {
            g.assign(input, output).unwrap();
            g.output(output);
            next.push(output);
        }
    }
    // Two micro-batches and a step, then a step by itself.
    let run = |device: &Device| -> Vec<Vec<Vec<f32>>> {
        let options = PlanOptions::default().tf32(false);
        let mut e = Executor::new(r.graph.clone(), &options, &Weights::none(), device).unwrap();
        e.set_poison(true);
        r.writes.iter().for_each(|(id, values)| e.write(*id, values).unwrap());
        let step = |step: f32| {
            e.write(coefficients, &[step, 0.1, 0.01, 10.0, 1000.0, 1.0]).unwrap();
            e.run().unwrap();
            next.iter().map(|&id| e.read(id).unwrap()).collect()
        };
        [0.0, 1.0, 1.0].map(step).to_vec()
    };
    let expected = run(&Device::cpu());
    assert!(expected[0][3].iter().any(|&v| v != 0.0) && expected[1][3].iter().all(|&v| v == 0.0));
    for (chip, device) in chips() {
        for (step, (found, expected)) in run(&device).iter().zip(&expected).enumerate() {
            for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
                let largest = expected.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
                let expected: Vec<f64> = expected.iter().map(|&v| v.into()).collect();
                compare(&format!("{chip:?}, run {step}, output {k}"), found, &expected, 1e-4 * largest + 1e-12)
                    .unwrap();
            }
        }
    }
}
