//! Compares a device with the CPU: every op forward and in reverse, then whole sampling steps, in
//! every storage type.
//!
//! The CPU is the reference here; the tests of this crate check it against slow loops in f64 and
//! central differences.

mod case;
mod cases;

use crate::backend::Device;
use crate::compare::{compare, relative_error};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, Source, TensorId, backward};
use crate::launch::Forced;
use crate::model::{Conditioning, Model};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::operator::parse_task;
use crate::sampler::{Item, Measurement, Measurer, Restorer, Settings};
use crate::tensor::{Dtype, Precision, Shape};
use crate::weights::Weights;
pub use case::{Case, CaseOp, Input, Values};
use cases::large_cases;
pub use cases::{cases, timed_cases};
use std::ops::ControlFlow;

/// A storage type, and the arithmetic of f32 products.
pub struct Mode {
    /// Name of the mode.
    pub name: &'static str,
    /// Type of activations and weights.
    pub storage: Dtype,
    /// f32 products use TF32.
    pub tf32: bool,
    /// Rounding error of the storage type: half a unit in the last place of 1.
    unit: f64,
}

/// All storage types, and f32 with TF32 products.
pub const MODES: [Mode; 4] = [
    Mode { name: "f32-strict", storage: Dtype::F32, tf32: false, unit: 6e-8 },
    Mode { name: "f32", storage: Dtype::F32, tf32: true, unit: 4.9e-4 },
    Mode { name: "f16", storage: Dtype::F16, tf32: true, unit: 4.9e-4 },
    Mode { name: "bf16", storage: Dtype::Bf16, tf32: true, unit: 3.9e-3 },
];

/// One check: an op, a whole sampling step, or a network of real size.
pub struct Check {
    /// Name in reports and for `--only`.
    pub name: String,
    what: What,
}

enum What {
    /// An op, compared with the CPU.
    Op(Case),
    /// Two levels of sampling with the shipped prior, compared with the CPU.
    Step(&'static str),
    /// An op, compared with f32 on the same device, because the CPU would take too long.
    Large(Case),
    /// adm-256 with random weights, forward and VJP, on an image with this side in pixels, compared
    /// with f32 on the same device.
    Network(usize),
}

/// The failure of a check.
#[derive(Debug)]
pub struct Failure {
    /// The worst element with both values, or the device's message.
    pub reason: String,
    /// The device itself failed. Later work on it in this process may then fail for the same
    /// reason.
    pub device_failed: bool,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure { reason: e.to_string(), device_failed: matches!(e, Error::Failed(_)) }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure { reason, device_failed: false }
    }
}

/// Every op on small shapes, then two whole sampling runs if this build has the shipped prior; all
/// are compared with the CPU.
pub fn checks() -> Vec<Check> {
    let ops = cases().into_iter().map(|case| Check { name: case.name.clone(), what: What::Op(case) });
    let steps = [("dps", "dps"), ("dmap", "dmap:k=1")].map(|(name, method)| {
        let name = format!("two {name} levels of the shipped prior");
        Check { name, what: What::Step(method) }
    });
    ops.chain(steps.into_iter().filter(|_| cfg!(feature = "shipped"))).collect()
}

/// Ops with the shapes of real networks, and adm-256, compared with f32 on the same device. Extents
/// are divided by `shrink`.
pub fn large_checks(shrink: usize) -> Vec<Check> {
    let ops = large_cases(shrink).into_iter();
    let ops = ops.map(|case| Check { name: format!("large {}", case.name), what: What::Large(case) });
    let network = Check { name: "large adm-256".into(), what: What::Network((64 / shrink).max(32)) };
    ops.chain([network]).collect()
}

impl Check {
    /// Runs the check on `device`, with forced kernel variants if there are any. Returns the
    /// largest error divided by its limit.
    pub fn run(&self, mode: &Mode, device: &Device, variants: Forced) -> std::result::Result<f64, Failure> {
        let plan = PlanOptions { storage: mode.storage, tf32: mode.tf32, variants, ..PlanOptions::default() };
        let strict = PlanOptions { tf32: false, ..PlanOptions::default() };
        let cpu = Device::cpu();
        match &self.what {
            What::Op(case) => compare_case(case, mode, (device, &plan), (&cpu, &strict)),
            What::Large(case) => compare_case(case, mode, (device, &plan), (device, &strict)),
            What::Step(method) => {
                let (found, expected) = (two_levels(method, device, plan)?, two_levels(method, &cpu, strict)?);
                // At the first level an error of eps is amplified more than a hundredfold in x0,
                // before x0 is clamped.
                within(relative_error(&found, &expected), 48.0 * mode.unit + 1e-4)
            }
            What::Network(side) => {
                let (found, expected) = (network(*side, device, plan)?, network(*side, device, strict)?);
                let errors = found.iter().zip(&expected).map(|(f, e)| relative_error(f, e));
                within(errors.fold(0.0, f64::max), 24.0 * mode.unit)
            }
        }
    }

    /// The graph of an op's check; none for sampling steps and networks.
    pub fn graph(&self) -> Result<Option<Graph>> {
        match &self.what {
            What::Op(case) | What::Large(case) => Ok(Some(record(case, Dtype::F32)?.graph)),
            What::Step(_) | What::Network(_) => Ok(None),
        }
    }
}

fn within(error: f64, limit: f64) -> std::result::Result<f64, Failure> {
    // The condition is written so that NaN fails.
    if error <= limit {
        return Ok(error / limit);
    }
    Err(format!("relative error {error:.1e}, limit {limit:.1e}").into())
}

/// Standard normal numbers for a sampling step or a network.
fn normal(number: u32, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed: 11, image: number, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    values
}

/// Values rounded to the storage type: the error is at most half a unit in the last place.
fn rounded(values: Vec<f32>, dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => values,
        Dtype::F16 => values.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect(),
        Dtype::Bf16 => values.into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect(),
    }
}

/// The graph of a case, its weights and inputs, and the tensors to read.
struct Recorded {
    graph: Graph,
    weights: Vec<(String, Vec<f32>)>,
    writes: Vec<(TensorId, Vec<f32>)>,
    wanted: Vec<TensorId>,
}

/// Outputs and gradients of a case. Stored inputs are rounded to `storage`.
fn record(case: &Case, storage: Dtype) -> Result<Recorded> {
    let mut g = Graph::new();
    let (mut ids, mut weights, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    let mut input = |g: &mut Graph, name: &str, shape: Shape, stored: bool, values: Vec<f32>| {
        if stored {
            weights.push((name.to_string(), rounded(values, storage)));
            return g.weight(name, shape);
        }
        let id = g.input(name, shape);
        writes.push((id, values));
        id
    };
    for (k, i) in case.inputs.iter().enumerate() {
        ids.push(input(&mut g, &format!("input {k}"), i.shape, i.stored, case.values(k)));
    }
    let mut wanted = case.record(&mut g, &ids)?;
    if !case.differentiable.is_empty() {
        let out = wanted[0];
        let (shape, stored) = (g.shape(out), g.tensor(out).precision == Precision::Storage);
        let v = input(&mut g, "cotangent", shape, stored, case.normal(99, shape.numel()));
        for &k in &case.differentiable {
            wanted.push(backward(&mut g, out, v, ids[k])?);
        }
    }
    wanted.iter().for_each(|&id| g.output(id));
    Ok(Recorded { graph: g, weights, writes, wanted })
}

/// Outputs and gradients of a case on a device; true if they have the storage type. Inputs are
/// rounded to the mode's type, whatever the plan's type is.
fn evaluate(case: &Case, mode: &Mode, device: &Device, plan: &PlanOptions) -> Result<Vec<(Vec<f32>, bool)>> {
    let Recorded { graph, weights, writes, wanted } = record(case, mode.storage)?;
    let mut e = Executor::new(graph, plan, &Weights::from_values(weights), device)?;
    e.set_poison(true);
    for (id, values) in &writes {
        e.write(*id, values)?;
    }
    e.run()?;
    let tensor = |id: TensorId| e.graph().tensor(id);
    let stored =
        |id: TensorId| tensor(id).precision == Precision::Storage || !matches!(tensor(id).source, Source::Node(_));
    wanted.iter().map(|&id| Ok((e.read(id)?, stored(id)))).collect()
}

fn compare_case(
    case: &Case,
    mode: &Mode,
    (device, plan): (&Device, &PlanOptions),
    (reference, strict): (&Device, &PlanOptions),
) -> std::result::Result<f64, Failure> {
    let found = evaluate(case, mode, device, plan)?;
    let expected = evaluate(case, mode, reference, strict)?;
    let outputs = found.len() - case.differentiable.len();
    let has_stored = case.inputs.iter().any(|i| i.stored);
    let mut share = 0.0f64;
    for (k, ((found, stored), (expected, _))) in found.iter().zip(&expected).enumerate() {
        // Further outputs are statistics: f32 values computed from products in the mode's type. So
        // are f32 outputs of factors that are rounded to TF32, and gradients by weights.
        let (what, by_products) = match k.checked_sub(outputs) {
            None => {
                let has_tf32 = mode.tf32 && mode.storage == Dtype::F32;
                (format!("output {k}"), k > 0 || has_tf32 && has_stored)
            }
            Some(k) => {
                let input = case.differentiable[k];
                (format!("VJP by input {input}"), case.inputs[input].stored)
            }
        };
        let largest = expected.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        let unit = if *stored || by_products { mode.unit } else { 6e-8 };
        let expected: Vec<f64> = expected.iter().map(|&v| v.into()).collect();
        // The limit covers the error of the reference in f32 and up to eight roundings of the
        // storage type.
        share = share.max(compare(&what, found, &expected, (8.0 * unit + 2e-6) * largest)?.share);
    }
    Ok(share)
}

/// Two levels of sampling with the shipped prior, on 16x16 pixels.
fn two_levels(method: &str, device: &Device, plan: PlanOptions) -> Result<Vec<f32>> {
    let (model, operator) = (Model::shipped()?, parse_task("sr4")?);
    let image = Shape::new(1, 16, 16, 3);
    let truth: Vec<f32> = normal(50, image.numel()).iter().map(|v| (0.4 * v).clamp(-1.0, 1.0)).collect();
    let y = Measurer::new(operator.as_ref(), image)?.apply(&truth, &[])?;
    let settings = Settings { steps: 2, ..Settings::parse(method, &model.network.prior())? };
    let mut restorer = Restorer::new(&model, &operator, &settings, image, plan, device)?;
    restorer.set_poison(true);
    let measurement = Measurement { y, state: Vec::new(), noise_norm: 0.5 };
    let item = Item { measurement, seed: 3, sample: 0, label: None };
    Ok(restorer.restore(&[item], |_| ControlFlow::Continue(()))?.remove(0).picture.values)
}

/// Output and VJP of adm-256 with random weights.
fn network(side: usize, device: &Device, plan: PlanOptions) -> Result<[Vec<f32>; 2]> {
    let model = Model::architecture("adm-256")?.with_random_weights();
    let mut g = Graph::new();
    let image = Shape::new(1, side, side, 3);
    let (x, t) = (g.input("x", image), g.input("t", Shape::rows(1, 1)));
    let out = model.network.record(&mut g, x, t, &Conditioning::default())?;
    let shape = g.shape(out);
    let v = g.input("v", shape);
    let dx = backward(&mut g, out, v, x)?;
    g.output(out);
    g.output(dx);
    let mut e = Executor::new(g, &plan, &model.weights, device)?;
    e.set_poison(true);
    e.write(x, &normal(1, image.numel()))?;
    e.write(t, &[500.0])?;
    e.write(v, &normal(2, shape.numel()))?;
    e.run()?;
    Ok([e.read(out)?, e.read(dx)?])
}
