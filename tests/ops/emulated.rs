//! Every op of the case table on every emulated chip, forward and VJP, in every storage type;
//! small cases with every kernel variant that takes them. What a kernel does wrong on the way (a
//! missing barrier, a write outside) is reported by the device itself.

use crate::{Expected, chosen, expected, inputs};
use dmap::backend::Device;
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::backend::cuda::launches_for;
use dmap::compare::compare;
use dmap::executor::Executor;
use dmap::graph::{Dtype, Graph, Plan, PlanOptions, Precision, TensorId, backward};
use dmap::launch::Forced;
use dmap::selftest::{Case, CaseOp};
use dmap::weights::Weights;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// f32 with TF32 products, f32 throughout, and the 16-bit types.
const MODES: [(&str, Dtype, bool); 4] =
    [("tf32", Dtype::F32, true), ("f32", Dtype::F32, false), ("f16", Dtype::F16, true), ("bf16", Dtype::Bf16, true)];

/// Half a unit in the last place of 1, of what products are made of.
fn unit(dtype: Dtype, tf32: bool) -> f64 {
    match dtype {
        Dtype::F32 if tf32 => 2f64.powi(-11),
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::Bf16 => 2f64.powi(-8),
    }
}

/// Values as the storage type holds them.
fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => values.to_vec(),
        Dtype::F16 => values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect(),
        Dtype::Bf16 => values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
    }
}

/// Whether it multiplies matrices, whose factors are rounded to TF32.
fn has_products(case: &Case) -> bool {
    use CaseOp::{Attention, Conv, ConvWeightVjp, CrossAttention, Geglu, Linear};
    matches!(case.op, Conv(_) | ConvWeightVjp(_) | Attention(_) | CrossAttention(_) | Linear(_) | Geglu(_))
}

/// The arithmetic of a run.
#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    dtype: Dtype,
    tf32: bool,
}

impl Mode {
    fn options(&self) -> PlanOptions {
        PlanOptions::default().storage(self.dtype).tf32(self.tf32)
    }
}

/// A device with the kernel variant that is forced on it.
struct Run {
    chip: EmulatedChip,
    order: u64,
    forced: Forced,
}

/// A chip, and the order of blocks and threads on it. Kernels that two chips launch alike run in
/// the orders of Ada and Hopper.
const CHIPS: [(EmulatedChip, u64); 3] = [(EmulatedChip::Ada, 1), (EmulatedChip::Hopper, 2), (EmulatedChip::Ampere, 3)];

/// Operations of a graph above which only its best variants run, to save time.
const MUCH_WORK: u64 = 5_000_000;

/// The runs of a graph: on every chip its best variants, and every other variant that takes one of
/// its problems. Launches that have been seen on another chip are left out.
fn runs(graph: &Graph, mode: Mode) -> Vec<Run> {
    let (mut seen, mut runs) = (BTreeSet::new(), Vec::new());
    let plan = Plan::new(graph, &mode.options()).unwrap();
    let is_small = plan.flops_forward + plan.flops_vjp <= MUCH_WORK;
    for (chip, order) in CHIPS {
        let launches_with = |variants| {
            let plan = Plan::new(graph, &mode.options().variants(variants)).unwrap();
            launches_for(graph, &plan, &chip.chip()).unwrap()
        };
        let best = launches_with(Forced::NONE);
        let choices = best.iter().flat_map(|node| &node.choices);
        let others = choices.flat_map(|c| c.takes.iter().map(move |name| Forced::one(c.op, name)));
        let others = others.filter(|_| is_small);
        for forced in [Forced::NONE].into_iter().chain(others) {
            let launches: Vec<_> = launches_with(forced).into_iter().map(|node| node.launches).collect();
            let is_new = seen.insert(format!("{launches:?}"));
            if is_new || forced == Forced::NONE && chip != EmulatedChip::Ampere {
                runs.push(Run { chip, order, forced });
            }
        }
    }
    runs
}

/// A graph of a case, with the values of its inputs as they are stored.
struct Recorded {
    graph: Graph,
    weights: Vec<(String, Vec<f32>)>,
    writes: Vec<(TensorId, Vec<f32>)>,
    wanted: Vec<TensorId>,
}

impl Recorded {
    /// Appends an input: a weight if it has the storage type of the run.
    fn input(&mut self, name: &str, shape: dmap::graph::Shape, values: Vec<f32>, stored: bool) -> TensorId {
        if stored {
            self.weights.push((name.to_string(), values));
            return self.graph.weight(name, shape);
        }
        let id = self.graph.input(name, shape);
        self.writes.push((id, values));
        id
    }

    /// The wanted tensors. If no variant is forced, two runs must give the same bits.
    fn outputs(&self, options: &PlanOptions, device: &Device) -> Result<Vec<Vec<f32>>, String> {
        let weights = Weights::from_values(self.weights.iter().cloned());
        let mut e = Executor::new(self.graph.clone(), options, &weights, device).map_err(|e| e.to_string())?;
        e.set_poison(true);
        let mut run = || -> Result<Vec<Vec<f32>>, String> {
            self.writes.iter().for_each(|(id, values)| e.write(*id, values).unwrap());
            e.run().map_err(|e| e.to_string())?;
            Ok(self.wanted.iter().map(|&id| e.read(id).unwrap()).collect())
        };
        let first = run()?;
        let second = if options.variants == Forced::NONE { run()? } else { first.clone() };
        let same = first.iter().flatten().map(|v| v.to_bits()).eq(second.iter().flatten().map(|v| v.to_bits()));
        if same { Ok(first) } else { Err("a second run gives other bits".into()) }
    }

    fn is_stored(&self, id: TensorId) -> bool {
        self.graph.tensor(id).precision == Precision::Storage
    }

    fn on(&self, run: &Run, mode: Mode) -> Result<Vec<Vec<f32>>, String> {
        let device = Device::emulated(Emulated::new(run.chip, run.order));
        self.outputs(&mode.options().variants(run.forced), &device)
    }
}

/// The case's graph, with its outputs, and the values as they are stored.
fn record(case: &Case, mode: Mode) -> (Recorded, Vec<TensorId>, Vec<Vec<f32>>) {
    let mut r = Recorded { graph: Graph::new(), weights: Vec::new(), writes: Vec::new(), wanted: Vec::new() };
    let (mut ids, mut values) = (Vec::new(), inputs(case));
    for (k, input) in case.inputs.iter().enumerate() {
        if input.stored {
            values[k] = rounded(&values[k], mode.dtype);
        }
        ids.push(r.input(&format!("input {k}"), input.shape, values[k].clone(), input.stored));
    }
    r.wanted = case.record(&mut r.graph, &ids).unwrap();
    (r, ids, values)
}

/// Runs `recorded` everywhere and compares. `limits` are the largest errors of its outputs.
fn compare_everywhere(
    name: &str,
    recorded: &Recorded,
    mode: Mode,
    expected: &[Vec<f64>],
    limits: &[f64],
) -> Vec<String> {
    let compare_one = |run: &Run| -> Result<(), String> {
        let found = recorded.on(run, mode)?;
        let outputs = found.iter().zip(expected).zip(limits);
        outputs
            .into_iter()
            .try_for_each(|((found, expected), limit)| compare(name, found, expected, *limit).map(|_| ()))
    };
    let failure = |run: Run| {
        let Err(e) = compare_one(&run) else { return None };
        Some(format!("{}, {:?} in order {}, {:?}: {name}: {e}", mode.name, run.chip, run.order, run.forced))
    };
    runs(&recorded.graph, mode).into_iter().filter_map(failure).collect()
}

/// Forward against the reference in f64 on the values as they are stored: at most twice the error
/// of plain f32, and some roundings of the storage type of the largest value.
fn forward(case: &Case, mode: Mode) -> Vec<String> {
    let (mut recorded, _, values) = record(case, mode);
    let expected = expected(case, &values);
    recorded.wanted.clone().into_iter().for_each(|id| recorded.graph.output(id));
    let limit = |(id, e): (&TensorId, &Expected)| {
        let (products, stored) = (has_products(case), recorded.is_stored(*id));
        let unit = if products || stored { unit(mode.dtype, mode.tf32 && products) } else { unit(Dtype::F32, false) };
        2.0 * e.plain_error + (8.0 * f64::from(f32::EPSILON) + 4.0 * unit) * e.largest
    };
    let limits: Vec<f64> = recorded.wanted.iter().zip(&expected).map(limit).collect();
    let truths: Vec<Vec<f64>> = expected.into_iter().map(|e| e.truth).collect();
    compare_everywhere(&case.name, &recorded, mode, &truths, &limits)
}

/// VJP against the CPU's, which central differences in f64 have checked, on the values as they are
/// stored.
fn vjp(case: &Case, input: usize, mode: Mode) -> Vec<String> {
    let (mut recorded, ids, _) = record(case, mode);
    let out = recorded.wanted[0];
    let (shape, stored) = (recorded.graph.shape(out), recorded.is_stored(out));
    let cotangent = rounded(&case.normal(90, shape.numel()), if stored { mode.dtype } else { Dtype::F32 });
    let v = recorded.input("cotangent", shape, cotangent, stored);
    let gradient = backward(&mut recorded.graph, out, v, ids[input]).unwrap();
    recorded.graph.output(gradient);
    recorded.wanted = vec![gradient];
    let expected = recorded.outputs(&PlanOptions::default(), &Device::cpu()).unwrap().remove(0);
    let largest = expected.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
    let network = case.inputs[input].stored || recorded.is_stored(gradient);
    let unit = if network { unit(mode.dtype, mode.tf32) } else { unit(Dtype::F32, false) };
    // Intermediate gradients are rounded to the storage type, and a squared one may pass through
    // several roundings.
    let limit = (16.0 * f64::from(f32::EPSILON) + 8.0 * unit) * largest + 1e-30;
    let expected: Vec<f64> = expected.iter().map(|&v| f64::from(v)).collect();
    compare_everywhere(&format!("VJP of {} by input {input}", case.name), &recorded, mode, &[expected], &[limit])
}

#[test]
fn every_kernel_variant_agrees_with_the_references_in_every_storage_type_on_every_chip() {
    let cases = chosen();
    let modes = MODES.map(|(name, dtype, tf32)| Mode { name, dtype, tf32 });
    let runs: Vec<(Mode, &Case)> =
        modes.into_iter().flat_map(|mode| cases.iter().map(move |case| (mode, case))).collect();
    let one = |&(mode, case): &(Mode, &Case)| {
        let gradients = case.differentiable.iter().flat_map(|&input| vjp(case, input, mode));
        forward(case, mode).into_iter().chain(gradients).collect::<Vec<String>>()
    };
    let failures: Vec<String> = runs.par_iter().flat_map(one).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if std::env::var_os("DMAP_CASE").is_some() {
        return;
    }
    let run = dmap::backend::cuda::emulated::kernels_run();
    let left_out: Vec<_> = dmap::backend::cuda::emulated::kernels()
        .into_iter()
        .filter(|k| !k.starts_with("fault_") && !run.contains_key(k))
        .collect();
    assert!(left_out.is_empty(), "no case runs {left_out:?}");
    crate::resources::check_table(&run);
}
