//! Single ops at the shapes of the 256x256 ADM UNet, forward and VJP.

use super::{Bench, Rows};
use crate::backend::Device;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, PlanOptions, TensorId, backward};
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, QkvOrder};
use crate::ops::conv::Conv;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::linear::Linear;
use crate::tensor::{Dtype, Precision, Shape};
use crate::weights::Weights;
use serde::Serialize;

#[derive(Serialize)]
struct OpRow {
    median_ms: f64,
    min_ms: f64,
    tflops: f64,
    gigabytes_per_second: f64,
    /// Share of the ceiling that bounds the op: the rate of the large product or of the large copy, of this program both.
    share_of_ceiling: f64,
}

type Record = Box<dyn Fn(&mut Graph, &[TensorId]) -> Result<TensorId>>;

/// One op on one set of extents.
struct Subject {
    name: String,
    record: Record,
    inputs: Vec<Shape>,
    /// Time the VJP by the first input instead of the op itself.
    vjp: bool,
}

/// Shapes of the 256x256 ADM UNet, and the two ceilings first.
fn subjects(shrink: usize) -> Vec<Subject> {
    let s = Shape::new;
    let size = |v: usize| (v / shrink).max(8);
    let mut all = Vec::new();
    let mut add = |name: String, record: Record, inputs: Vec<Shape>, vjp: bool| {
        all.push(Subject { name, record, inputs, vjp });
    };
    let copy = s(1, size(4096), size(4096), 8);
    add("large copy".into(), Box::new(|g, i| g.one(Scale { scale: 1.0 }, "copy", i)), vec![copy], false);
    let product = vec![s(size(8192), 1, 1, size(4096)), s(size(4096), 1, 1, size(4096)), Shape::vector(size(4096))];
    add("large matrix product".into(), Box::new(|g, i| g.one(Linear::default(), "product", i)), product, false);
    for (n, side, c) in [(4, 256, 256), (4, 64, 512), (4, 32, 512), (4, 16, 1024), (1, 8, 1024)] {
        let (side, c) = (size(side), size(c));
        let inputs = vec![s(n, side, side, c), s(c, 3, 3, c), Shape::vector(c)];
        for vjp in [false, true] {
            let way = if vjp { "conv_vjp" } else { "conv" };
            let record: Record = Box::new(|g, i| g.one(Conv::new(3, 1), "conv", i));
            add(format!("{way} 3x3, {n} x {side}x{side}, {c} channels"), record, inputs.clone(), vjp);
        }
    }
    for (n, side, c) in [(4, 32, 512), (4, 16, 1024)] {
        let (side, heads) = (size(side), (size(c) / 64).max(1));
        for vjp in [false, true] {
            let way = if vjp { "attention_vjp" } else { "attention" };
            let op = Attention { heads, order: QkvOrder::ByHead };
            let record: Record = Box::new(move |g, i| g.one(op.clone(), "attention", i));
            let name = format!("{way}, {n} x {} tokens, {heads} heads of 64", side * side);
            add(name, record, vec![s(n, side, side, 192 * heads)], vjp);
        }
    }
    for vjp in [false, true] {
        let (side, c) = (size(256), size(256).next_multiple_of(32));
        let way = if vjp { "group_norm_vjp" } else { "group_norm" };
        let op = GroupNorm(GroupNormOptions::new(32, 1e-5, true));
        let record: Record = Box::new(move |g, i| g.one(op.clone(), "group_norm", i));
        let inputs = vec![s(4, side, side, c), Shape::vector(c), Shape::vector(c)];
        add(format!("{way}, 4 x {side}x{side}, {c} channels"), record, inputs, vjp);
    }
    let x = s(4, size(256), size(256), size(256));
    add("add".into(), Box::new(|g, i| g.one(Add { scale: 1.0 }, "add", i)), vec![x, x], false);
    all
}

/// Median and minimum seconds, operations and bytes of one op.
struct Timed {
    median: f64,
    min: f64,
    flops: f64,
    bytes: f64,
}

fn time(subject: &Subject, plan: &PlanOptions, device: &Device, repeat: usize) -> Result<Timed> {
    let mut g = Graph::new();
    let mut weights = Vec::new();
    let mut stored = |g: &mut Graph, k: usize, shape: Shape| {
        let mut values = vec![0.0; shape.numel()];
        fill_normal(&NoiseKey { seed: 1, image: k as u32, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
        weights.push((format!("input {k}"), values));
        g.weight(&format!("input {k}"), shape)
    };
    let ids: Vec<_> = subject.inputs.iter().enumerate().map(|(k, s)| stored(&mut g, k, *s)).collect();
    let mut out = (subject.record)(&mut g, &ids)?;
    if subject.vjp {
        let v_shape = g.shape(out);
        let v = stored(&mut g, 99, v_shape);
        out = backward(&mut g, out, v, ids[0])?;
    }
    g.output(out);
    let mut e = Executor::new(g, plan, &Weights::from_values(weights), device)?;
    e.run()?;
    let counted: Vec<usize> =
        (0..e.plan().steps.len()).filter(|&k| e.graph().node(e.plan().steps[k].node).reverse == subject.vjp).collect();
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

/// Bytes of a tensor where activations are stored in `storage`.
pub(super) fn size_of_tensor(g: &Graph, id: TensorId, storage: Dtype) -> f64 {
    let t = g.tensor(id);
    let dtype = if t.precision == Precision::Full { Dtype::F32 } else { storage };
    (t.shape.numel() * dtype.bytes()) as f64
}

pub(super) fn run(flags: &Bench, plan: &PlanOptions, device: &Device, rows: &mut Rows) -> Result<()> {
    let (mut copy, mut product) = (f64::NAN, f64::NAN);
    for (k, subject) in subjects(flags.shrink as usize).into_iter().enumerate() {
        let row = time(&subject, plan, device, flags.repeat).map(|t| {
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
                // What bounds the op is what would take longer at the ceilings; the copy is its own.
                share_of_ceiling: if k == 0 { 1.0 } else { (t.flops / product).max(t.bytes / copy) / t.median },
            }
        });
        rows.print("op", &subject.name, row, |r| {
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
