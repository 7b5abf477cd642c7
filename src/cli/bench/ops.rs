//! Single ops at the shapes of the 256x256 ADM UNet, forward and VJP.

use super::{Bench, Rows};
use crate::backend::Device;
use crate::backend::cuda::launches_for;
use crate::cli::time_model::bytes_of;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, Plan, PlanOptions, TensorId, backward};
use crate::launch::Forced;
use crate::selftest::{Case, timed_cases};
use crate::tensor::Shape;
use crate::weights::Weights;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct OpRow {
    median_ms: f64,
    min_ms: f64,
    tflops: f64,
    gigabytes_per_second: f64,
    /// Share of the rate that bounds the op: the measured rate of the large product or of the large
    /// copy. Both are measured with this program.
    share_of_ceiling: f64,
}

/// Median and minimum seconds, operations and bytes of one op.
struct Timed {
    median: f64,
    min: f64,
    flops: f64,
    bytes: f64,
}

/// The graph of a case, or of its VJP with respect to the first input, with its weights.
fn record(case: &Case, vjp: bool) -> Result<(Graph, Weights)> {
    let mut g = Graph::new();
    let mut weights = Vec::new();
    let mut stored = |g: &mut Graph, name: &str, shape: Shape, values: Vec<f32>| {
        weights.push((name.to_string(), values));
        g.weight(name, shape)
    };
    let inputs = case.inputs.iter().enumerate();
    let ids: Vec<_> = inputs.map(|(k, i)| stored(&mut g, &format!("input {k}"), i.shape, case.values(k))).collect();
    let mut out = case.record(&mut g, &ids)?[0];
    if vjp {
        let shape = g.shape(out);
        let v = stored(&mut g, "cotangent", shape, case.normal(99, shape.numel()));
        out = backward(&mut g, out, v, ids[0])?;
    }
    g.output(out);
    Ok((g, Weights::from_values(weights)))
}

/// The kernel variants that take the case on the device but are not the ones that it runs.
fn other_variants(case: &Case, vjp: bool, plan: &PlanOptions, device: &Device) -> Result<Vec<(Forced, String)>> {
    let Some(chip) = device.chip() else { return Ok(Vec::new()) };
    let graph = record(case, vjp)?.0;
    let plan = Plan::new(&graph, plan)?;
    let nodes = launches_for(&graph, &plan, &chip)?;
    let counted = nodes.iter().zip(&plan.steps).filter(|(_, step)| graph.node(step.node).reverse == vjp);
    let choices = counted.flat_map(|(launches, _)| &launches.choices);
    let others = choices.flat_map(|c| c.takes.iter().filter(|name| **name != c.chosen).map(move |name| (c.op, *name)));
    let others: BTreeSet<_> = others.collect();
    Ok(others.into_iter().map(|(op, name)| (Forced::one(op, name), format!("{op}={name}"))).collect())
}

/// Times a case, or its VJP with respect to the first input.
fn time(case: &Case, vjp: bool, plan: &PlanOptions, device: &Device, repeat: usize) -> Result<Timed> {
    let (g, weights) = record(case, vjp)?;
    let mut e = Executor::new(g, plan, &weights, device)?;
    e.run()?;
    let counted: Vec<usize> =
        (0..e.plan().steps.len()).filter(|&k| e.graph().node(e.plan().steps[k].node).reverse == vjp).collect();
    let mut seconds = Vec::new();
    for _ in 0..repeat.max(1) {
        let times = e.time_nodes()?;
        seconds.push(counted.iter().map(|&k| times[k].as_secs_f64()).sum::<f64>());
    }
    seconds.sort_by(f64::total_cmp);
    let (mut flops, mut bytes) = (0.0, 0.0);
    for k in counted {
        let node = e.graph().node(e.plan().steps[k].node);
        let of = |ids: &[TensorId]| ids.iter().map(|&i| e.graph().shape(i)).collect::<Vec<_>>();
        flops += node.op.flops(&of(&node.inputs), &of(&node.outputs)) as f64;
        bytes += node.inputs.iter().chain(&node.outputs).map(|&i| bytes_of(e.graph(), i, plan.storage)).sum::<f64>();
    }
    Ok(Timed { median: seconds[seconds.len() / 2], min: seconds[0], flops, bytes })
}

/// Seconds of the large copy per byte and of the large product per operation, NaN until they are
/// measured.
struct Ceiling {
    copy: f64,
    product: f64,
}

impl Ceiling {
    /// The row of an op. An op is bounded by its operations or its bytes, whichever takes longer;
    /// the copy is its own bound.
    fn row(&mut self, case: &Case, t: &Timed) -> OpRow {
        match case.name.as_str() {
            "large copy" => self.copy = t.median / t.bytes,
            "large matrix product" => self.product = self.product.min(t.median / t.flops),
            _ => {}
        }
        OpRow {
            median_ms: 1e3 * t.median,
            min_ms: 1e3 * t.min,
            tflops: t.flops / t.median / 1e12,
            gigabytes_per_second: t.bytes / t.median / 1e9,
            // `max` ignores the NaN of a bound that is not known yet.
            share_of_ceiling: (t.flops * self.product).max(t.bytes * self.copy) / t.median,
        }
    }
}

/// The name of a row: that of the case, for a VJP with `_vjp` after the op.
fn name_of(case: &Case, vjp: bool) -> String {
    let op = case.name.split([' ', ',']).next().unwrap_or_default();
    if vjp { case.name.replacen(op, &format!("{op}_vjp"), 1) } else { case.name.clone() }
}

/// Prints a row for every op and its VJP, and with `--variants` one for every other kernel variant.
pub(super) fn run(flags: &Bench, plan: &PlanOptions, device: &Device, rows: &mut Rows) -> Result<()> {
    let mut ceiling = Ceiling { copy: f64::NAN, product: f64::NAN };
    let mut print = |name: &str, case: &Case, vjp: bool, plan: &PlanOptions| {
        let row = time(case, vjp, plan, device, flags.repeat).map(|t| ceiling.row(case, &t));
        rows.print("op", name, row, |r| {
            format!(
                "{:9.4} ms {:8.2} TFLOP/s {:8.1} GB/s {:5.0} % of the ceiling",
                r.median_ms,
                r.tflops,
                r.gigabytes_per_second,
                100.0 * r.share_of_ceiling
            )
        })
    };
    for case in timed_cases(flags.shrink as usize) {
        let ways = if case.differentiable.is_empty() { &[false][..] } else { &[false, true] };
        for &vjp in ways {
            let name = name_of(&case, vjp);
            print(&name, &case, vjp, plan)?;
            let others = if flags.variants { other_variants(&case, vjp, plan, device)? } else { Vec::new() };
            for (forced, variant) in others {
                print(&format!("{name} {variant}"), &case, vjp, &plan.variants(forced))?;
            }
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use super::*;
    use crate::backend::cuda::emulated::{Emulated, EmulatedChip};
    use crate::tensor::Dtype;

    #[test]
    fn other_variants_are_those_that_do_not_run() {
        let case = timed_cases(64).into_iter().find(|c| c.name.starts_with("conv")).unwrap();
        let device = Device::emulated(Emulated::new(EmulatedChip::Hopper, 0));
        let names = |plan: &PlanOptions, vjp| -> Vec<String> {
            other_variants(&case, vjp, plan, &device).unwrap().into_iter().map(|other| other.1).collect()
        };
        let plan = PlanOptions::default().storage(Dtype::Bf16);
        for vjp in [false, true] {
            let (best, forced) = (names(&plan, vjp), names(&plan.variants(Forced::one("conv", "simt")), vjp));
            assert!(best.contains(&"conv=simt".into()) && best.contains(&"conv=wgmma_256".into()), "{best:?}");
            assert_eq!(best.len(), forced.len());
            assert!(!forced.contains(&"conv=simt".into()), "{forced:?}");
        }
        assert!(other_variants(&case, false, &plan, &Device::cpu()).unwrap().is_empty());
    }
}
