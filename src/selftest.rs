//! A device against the CPU: every op forward and backward, then whole steps, in every storage type.
//!
//! The CPU is the reference: the tests of this crate compare it with slow loops in f64 and with central differences.

use crate::backend::Device;
use crate::compare::{compare, relative_error};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Dtype, Graph, PlanOptions, Precision, Shape, Source, TensorId, backward};
use crate::model::Model;
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::operator::parse_task;
use crate::ops::Op;
use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, CrossAttention, QkvOrder};
use crate::ops::axis_filter::{Axis, AxisFilter, Taps};
use crate::ops::clamp::Clamp;
use crate::ops::concat::{ChannelSlice, Concat};
use crate::ops::conv::Conv;
use crate::ops::crop::Crop;
use crate::ops::diagonal_gaussian::DiagonalGaussian;
use crate::ops::filter2d::Filter2d;
use crate::ops::geglu::Geglu;
use crate::ops::gelu::Gelu;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::linear::Linear;
use crate::ops::linear_combination::LinearCombination;
use crate::ops::mask::Mask;
use crate::ops::norm::{ResidualNorm, SquaredNorm};
use crate::ops::resample::{Pool, Upsample};
use crate::ops::silu::Silu;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::sampler::{Item, Measurement, Measurer, Method, Restorer, Settings};
use crate::weights::Weights;
use std::ops::ControlFlow;
use std::sync::Arc;

type Record = Arc<dyn Fn(&mut Graph, &[TensorId]) -> Result<TensorId> + Send + Sync>;

/// One op on one set of extents.
struct Case {
    op: Record,
    name: &'static str,
    /// Extents, and whether the input is stored in the type of the run.
    inputs: Vec<(Shape, bool)>,
    differentiable: Vec<usize>,
}

/// A storage type and how f32 products are made.
pub struct Mode {
    /// Its name.
    pub name: &'static str,
    storage: Dtype,
    tf32: bool,
    /// Half a unit in the last place of 1.
    unit: f64,
}

/// Every storage type.
pub const MODES: [Mode; 4] = [
    Mode { name: "f32-strict", storage: Dtype::F32, tf32: false, unit: 6e-8 },
    Mode { name: "f32", storage: Dtype::F32, tf32: true, unit: 4.9e-4 },
    Mode { name: "f16", storage: Dtype::F16, tf32: true, unit: 4.9e-4 },
    Mode { name: "bf16", storage: Dtype::Bf16, tf32: true, unit: 3.9e-3 },
];

/// What one check found.
pub struct Outcome {
    /// The op, or the method of a whole step.
    pub name: String,
    /// The storage type.
    pub mode: &'static str,
    /// Largest error as a share of its limit; or the worst index with both values.
    pub result: std::result::Result<f64, String>,
}

fn case<O: Op + Clone + 'static>(
    name: &'static str,
    op: O,
    inputs: Vec<(Shape, bool)>,
    differentiable: &[usize],
) -> Case {
    let record = move |g: &mut Graph, i: &[TensorId]| g.one(op.clone(), name, i);
    Case { op: Arc::new(record), name, inputs, differentiable: differentiable.to_vec() }
}

fn cases() -> Vec<Case> {
    let s = Shape::new;
    let (x, image) = (s(2, 12, 20, 32), s(2, 16, 24, 3));
    let [stored, full] = [true, false].map(|stored| move |shape| (shape, stored));
    let conv = |name, from: Shape, to: usize, kernel: usize, stride: usize| {
        let weight = s(to, kernel, kernel, from.c);
        let inputs = vec![stored(from), stored(weight), stored(Shape::vector(to))];
        case(name, Conv::new(kernel, stride), inputs, &[0])
    };
    let attention = |name, heads, d: usize, order| {
        case(name, Attention { heads, order }, vec![stored(s(2, 9, 11, 3 * heads * d))], &[0])
    };
    let cross = |name, heads, c: usize, keys: Shape, causal| {
        let wanted: &[usize] = if keys.n == 1 { &[0] } else { &[0, 1, 2] };
        let inputs = vec![stored(s(2, 9, 11, c)), stored(keys), stored(keys)];
        case(name, CrossAttention { heads, causal }, inputs, wanted)
    };
    let norm = GroupNorm(GroupNormOptions { film: true, ..GroupNormOptions::new(16, 1e-5, true) });
    let (vector, vector48, x16) = (stored(Shape::vector(32)), stored(Shape::vector(48)), s(2, 12, 20, 16));
    let joined_norm = GroupNorm(GroupNormOptions { joined: true, ..GroupNormOptions::new(16, 1e-5, true) });
    let joined_conv = Conv { joined: true, ..Conv::new(1, 1) };
    let taps = Taps { rows: (0..8).map(|i| vec![(2 * i, 0.5), (2 * i + 1, 0.5)]).collect(), inputs: 16 };
    let coefficients = full(Shape::rows(2, 4));
    vec![
        conv("conv 3x3", s(2, 17, 19, 64), 136, 3, 1),
        conv("conv 3x3/2", s(2, 17, 19, 32), 64, 3, 2),
        conv("conv 1x1", s(1, 16, 16, 96), 64, 1, 1),
        conv("conv of an image", s(2, 16, 16, 3), 32, 3, 1),
        case("group_norm", norm, vec![stored(x), vector, vector, stored(Shape::rows(2, 64))], &[0, 3]),
        case("group_norm of two sources", joined_norm, vec![stored(x), vector48, vector48, stored(x16)], &[0, 3]),
        case(
            "conv of two sources",
            joined_conv,
            vec![stored(x), stored(s(64, 1, 1, 48)), stored(Shape::vector(64)), stored(x16)],
            &[0, 3],
        ),
        attention("attention, heads of 32", 2, 32, QkvOrder::ByHead),
        attention("attention, heads of 40", 1, 40, QkvOrder::ByKind),
        attention("attention, heads of 64", 2, 64, QkvOrder::ByKind),
        attention("attention, heads of 80", 1, 80, QkvOrder::ByHead),
        attention("attention, heads of 160", 1, 160, QkvOrder::ByKind),
        cross("cross_attention of an image", 2, 128, s(2, 9, 11, 128), false),
        cross("cross_attention to a text", 2, 128, s(1, 1, 77, 128), false),
        cross("cross_attention, a head of 512", 1, 512, s(2, 9, 11, 512), false),
        cross("cross_attention, causal", 2, 32, s(2, 1, 99, 32), true),
        case("diagonal_gaussian", DiagonalGaussian, vec![stored(s(2, 16, 24, 6)), full(image)], &[0]),
        case("layer_norm", LayerNorm { eps: 1e-5 }, vec![stored(x), vector, vector], &[0]),
        case("gelu", Gelu { quick: false }, vec![stored(x)], &[0]),
        case("geglu", Geglu, vec![stored(x), stored(s(272, 1, 1, 32)), stored(Shape::vector(272))], &[0]),
        case(
            "linear",
            Linear::default(),
            vec![stored(s(2, 1, 1, 96)), stored(s(64, 1, 1, 96)), stored(Shape::vector(64))],
            &[0],
        ),
        case("silu", Silu, vec![stored(x)], &[0]),
        case("add", Add { scale: -0.5 }, vec![stored(x), stored(x)], &[0, 1]),
        case("scale", Scale { scale: 1.5 }, vec![stored(x)], &[0]),
        case("clamp", Clamp { low: -0.5, high: 0.75 }, vec![full(image)], &[0]),
        case("concat", Concat, vec![stored(x), stored(s(2, 12, 20, 24))], &[0, 1]),
        case("channel_slice", ChannelSlice { start: 8, len: 12 }, vec![stored(x)], &[0]),
        case(
            "conv of a doubled image, item bias",
            Conv { doubled: true, item_bias: true, ..Conv::new(3, 1) },
            vec![stored(x), stored(s(64, 3, 3, 32)), stored(Shape::vector(64)), stored(Shape::rows(2, 64))],
            &[0],
        ),
        case("upsample", Upsample { gain: 1.0 }, vec![stored(x)], &[0]),
        case("pool", Pool { gain: 0.25 }, vec![stored(x)], &[0]),
        case("crop", Crop { h: 9, w: 10 }, vec![full(image)], &[0]),
        case("axis_filter", AxisFilter { axis: Axis::Height, taps: Arc::new(taps) }, vec![full(image)], &[0]),
        case("filter2d", Filter2d, vec![full(image), full(s(2, 9, 9, 1))], &[0]),
        case("mask", Mask, vec![full(image), full(s(2, 16, 24, 1))], &[0]),
        case("residual_norm", ResidualNorm, vec![full(image), full(image)], &[0, 1]),
        case("squared_norm", SquaredNorm, vec![full(image)], &[0]),
        case(
            "linear_combination",
            LinearCombination { columns: vec![2, 0] },
            vec![coefficients, full(image), full(image)],
            &[1, 2],
        ),
        case(
            "learned_noise",
            LearnedNoise { columns: [0, 1, 2] },
            vec![full(image), full(image), full(image), coefficients],
            &[],
        ),
        case(
            "guided_step",
            GuidedStep { step: 0, floor: 1, normalised: true },
            vec![full(image), full(image), full(Shape::rows(2, 1)), coefficients],
            &[],
        ),
        case("sphere_projection", SphereProjection { column: 1 }, vec![full(image), full(image), coefficients], &[]),
        case("timestep_embedding", TimestepEmbedding { channels: 64 }, vec![full(Shape::rows(3, 1))], &[]),
    ]
}

fn normal(draw: u32, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    fill_normal(&NoiseKey { seed: 11, image: draw, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
    values
}

/// As the storage type holds them: half a unit away at most.
fn rounded(values: Vec<f32>, dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => values,
        Dtype::F16 => values.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect(),
        Dtype::Bf16 => values.into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect(),
    }
}

/// Output and gradients of a case on a device; inputs are always rounded to the mode's storage type.
fn evaluate(case: &Case, mode: &Mode, device: &Device, plan: &PlanOptions) -> Result<Vec<(Vec<f32>, bool)>> {
    let mut g = Graph::new();
    let (mut ids, mut weights, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    let mut input = |g: &mut Graph, k: usize, shape: Shape, stored: bool| {
        let name = format!("input {k}");
        if stored {
            weights.push((name.clone(), rounded(normal(k as u32, shape.numel()), mode.storage)));
            return g.weight(&name, shape);
        }
        let id = g.input(&name, shape);
        writes.push((id, normal(k as u32, shape.numel())));
        id
    };
    for (k, &(shape, stored)) in case.inputs.iter().enumerate() {
        ids.push(input(&mut g, k, shape, stored));
    }
    let out = (case.op)(&mut g, &ids)?;
    let mut wanted = vec![out];
    if !case.differentiable.is_empty() {
        let (shape, stored) = (g.shape(out), g.tensor(out).precision == Precision::Storage);
        let v = input(&mut g, 99, shape, stored);
        for &k in &case.differentiable {
            wanted.push(backward(&mut g, out, v, ids[k])?);
        }
    }
    wanted.iter().for_each(|&id| g.output(id));
    let mut e = Executor::new(g, plan, &Weights::from_values(weights), device)?;
    for (id, values) in &writes {
        e.write(*id, values)?;
    }
    e.run()?;
    let tensor = |id: TensorId| e.graph().tensor(id);
    let stored =
        |id: TensorId| tensor(id).precision == Precision::Storage || !matches!(tensor(id).source, Source::Node(_));
    wanted.iter().map(|&id| Ok((e.read(id)?, stored(id)))).collect()
}

fn check_case(case: &Case, mode: &Mode, device: &Device) -> std::result::Result<f64, String> {
    let plan = PlanOptions { storage: mode.storage, tf32: mode.tf32, ..PlanOptions::default() };
    let found = evaluate(case, mode, device, &plan).map_err(|e| e.to_string())?;
    let expected =
        evaluate(case, mode, &Device::cpu(), &PlanOptions::default()).map_err(|e| format!("on the CPU: {e}"))?;
    let mut share = 0.0f64;
    for (k, ((found, stored), (expected, _))) in found.iter().zip(&expected).enumerate() {
        let what = if k == 0 { "forward".into() } else { format!("VJP by input {}", case.differentiable[k - 1]) };
        let largest = expected.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        let unit = if *stored { mode.unit } else { 6e-8 };
        let expected: Vec<f64> = expected.iter().map(|&v| v.into()).collect();
        // The CPU's own error in f32 and up to eight roundings of the storage type.
        share = share.max(compare(&what, found, &expected, (8.0 * unit + 2e-6) * largest)?.share);
    }
    Ok(share)
}

fn check_step(method: Method, mode: &Mode, device: &Device) -> std::result::Result<f64, String> {
    let restore = |device: &Device, plan: PlanOptions| -> Result<Vec<f32>> {
        let (model, operator) = (Model::shipped()?, parse_task("sr4")?);
        let image = Shape::new(1, 16, 16, 3);
        let truth: Vec<f32> = normal(50, image.numel()).iter().map(|v| (0.4 * v).clamp(-1.0, 1.0)).collect();
        let y = Measurer::new(operator.as_ref(), image)?.apply(&truth, &[])?;
        let settings = Settings { steps: 2, inner: 1, ..method.defaults() };
        let mut restorer = Restorer::new(&model, &operator, &settings, image, plan, device)?;
        let measurement = Measurement { y, state: Vec::new(), noise_norm: 0.5 };
        let item = Item { measurement, seed: 3, sample: 0, label: None };
        Ok(restorer.restore(&[item], |_| ControlFlow::Continue(()))?.remove(0).picture.values)
    };
    let plan = PlanOptions { storage: mode.storage, tf32: mode.tf32, ..PlanOptions::default() };
    let found = restore(device, plan).map_err(|e| e.to_string())?;
    let expected = restore(&Device::cpu(), PlanOptions::default()).map_err(|e| e.to_string())?;
    // At the first level an error of eps comes into x0 more than a hundredfold, before x0 is limited.
    let (error, limit) = (relative_error(&found, &expected), 48.0 * mode.unit + 1e-4);
    if error <= limit { Ok(error / limit) } else { Err(format!("relative error {error:.1e}, limit {limit:.1e}")) }
}

/// Checks `device` in `mode`; `report` is called after each check. Gives the number of failures.
pub fn run(device: &Device, mode: &Mode, mut report: impl FnMut(&Outcome)) -> usize {
    let mut failures = 0;
    let mut done = |name: &str, result: std::result::Result<f64, String>| {
        failures += usize::from(result.is_err());
        report(&Outcome { name: name.into(), mode: mode.name, result });
    };
    for case in cases() {
        done(case.name, check_case(&case, mode, device));
    }
    for method in [Method::Dps, Method::Dmap] {
        done(&format!("two {} levels of the shipped prior", method.row().name), check_step(method, mode, device));
    }
    failures
}
