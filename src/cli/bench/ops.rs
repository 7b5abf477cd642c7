//! Single ops at the shapes of the 256x256 ADM UNet, forward and VJP.

use super::{Bench, Rows};
use crate::backend::Device;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, TensorId, backward};
use crate::selftest::{Case, timed_cases};
use crate::tensor::{Dtype, Precision, Shape};
use crate::weights::Weights;
use serde::Serialize;

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

/// Times a case, or its VJP with respect to the first input.
fn time(case: &Case, vjp: bool, plan: &PlanOptions, device: &Device, repeat: usize) -> Result<Timed> {
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
    let mut e = Executor::new(g, plan, &Weights::from_values(weights), device)?;
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
        bytes +=
            node.inputs.iter().chain(&node.outputs).map(|&i| size_of_tensor(e.graph(), i, plan.storage)).sum::<f64>();
    }
    Ok(Timed { median: seconds[seconds.len() / 2], min: seconds[0], flops, bytes })
}

/// Bytes of a tensor if activations are stored in `storage`.
pub(super) fn size_of_tensor(g: &Graph, id: TensorId, storage: Dtype) -> f64 {
    let t = g.tensor(id);
    let dtype = if t.precision == Precision::Full { Dtype::F32 } else { storage };
    (t.shape.numel() * dtype.bytes()) as f64
}

pub(super) fn run(flags: &Bench, plan: &PlanOptions, device: &Device, rows: &mut Rows) -> Result<()> {
    let (mut copy, mut product) = (f64::NAN, f64::NAN);
    let cases = timed_cases(flags.shrink as usize).into_iter();
    let ways = cases.flat_map(|case| {
        let with_vjp = !case.differentiable.is_empty();
        [Some((case.clone(), false)), with_vjp.then_some((case, true))].into_iter().flatten()
    });
    for (k, (case, vjp)) in ways.enumerate() {
        let op = case.name.split([' ', ',']).next().unwrap_or_default();
        let name = if vjp { case.name.replacen(op, &format!("{op}_vjp"), 1) } else { case.name.clone() };
        let row = time(&case, vjp, plan, device, flags.repeat).map(|t| {
            match k {
                0 => copy = t.bytes / t.median,
                1 => product = t.flops / t.median,
                _ => {}
            }
            OpRow {
                median_ms: 1e3 * t.median,
                min_ms: 1e3 * t.min,
                tflops: t.flops / t.median / 1e12,
                gigabytes_per_second: t.bytes / t.median / 1e9,
                // The op is bounded by its operations or its bytes, whichever takes longer at the
                // measured rates. The copy is its own bound.
                share_of_ceiling: if k == 0 { 1.0 } else { (t.flops / product).max(t.bytes / copy) / t.median },
            }
        });
        rows.print("op", &name, row, |r| {
            format!(
                "{:9.4} ms {:8.2} TFLOP/s {:8.1} GB/s {:5.0} % of the ceiling",
                r.median_ms,
                r.tflops,
                r.gigabytes_per_second,
                100.0 * r.share_of_ceiling
            )
        })?;
    }
    Ok(())
}
