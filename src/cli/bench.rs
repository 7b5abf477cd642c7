//! `dmap bench`: what a device reaches, op by op and step by step.

use super::device::DeviceFlags;
use crate::backend::Device;
use crate::backend::cuda::{Limits, launches_for};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Dtype, Graph, PlanOptions, Precision, Shape, TensorId, backward};
use crate::model::Model;
use crate::noise::{Draw, NoiseKey, fill_normal};
use crate::operator::parse_task;
use crate::ops::add::{Add, Scale};
use crate::ops::attention::{Attention, QkvOrder};
use crate::ops::conv::Conv;
use crate::ops::group_norm::{GroupNorm, GroupNormOptions};
use crate::ops::linear::Linear;
use crate::sampler::{Item, Measurement, Measurer, Method, Restorer, Settings};
use crate::weights::Weights;
use serde::Serialize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

/// Flags of `dmap bench`.
#[derive(clap::Args, Debug)]
pub struct Bench {
    #[command(flatten)]
    device: DeviceFlags,
    /// Prior of the whole steps: a weight file, `photo`, or a preset, which gets random weights
    #[arg(long, default_value = "photo")]
    model: String,
    /// Image size of the whole steps
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Batches of the whole steps
    #[arg(long, default_value = "1,4,16", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Divides the extents of the op rows, for slow devices
    #[arg(long, default_value_t = 1)]
    shrink: usize,
    /// Timed runs of each row; the median counts
    #[arg(long, default_value_t = 20)]
    repeat: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct OpRow {
    op: String,
    median_ms: f64,
    min_ms: f64,
    tflops: f64,
    gigabytes_per_second: f64,
    /// Share of the ceiling that bounds the op: the large product's rate or the large copy's.
    share_of_ceiling: f64,
}

#[derive(Serialize)]
struct StepRow {
    method: &'static str,
    batch: usize,
    launches_per_step: usize,
    ms_per_step: f64,
    images_per_hour: f64,
    arena_bytes: u64,
    weight_bytes: u64,
}

#[derive(Serialize)]
struct Report {
    device: String,
    version: &'static str,
    nvrtc: Option<&'static str>,
    storage: String,
    tf32: bool,
    model: String,
    size: usize,
    ops: Vec<OpRow>,
    steps: Vec<StepRow>,
}

type Record = Box<dyn Fn(&mut Graph, &[TensorId]) -> Result<TensorId>>;

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
fn time(subject: &Subject, plan: &PlanOptions, device: &Device, repeat: usize) -> Result<(f64, f64, f64, f64)> {
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
    let (mut seconds, mut bytes, mut flops) = (Vec::new(), 0.0, 0.0);
    for k in 0..repeat.max(1) {
        let times = e.run_timed()?;
        let counted = e.plan().steps.iter().zip(times).filter(|(s, _)| e.graph().node(s.node).reverse == subject.vjp);
        let mut total = 0.0;
        for (step, time) in counted {
            total += time.as_secs_f64();
            if k > 0 {
                continue;
            }
            let node = e.graph().node(step.node);
            let of = |ids: &[TensorId]| ids.iter().map(|&i| e.graph().shape(i)).collect::<Vec<_>>();
            flops += node.op.flops(&of(&node.inputs), &of(&node.outputs)) as f64;
            bytes += node.inputs.iter().chain(&node.outputs).map(|&i| size_of_tensor(e.graph(), i, plan)).sum::<f64>();
        }
        seconds.push(total);
    }
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[seconds.len() / 2], seconds[0], flops, bytes))
}

fn size_of_tensor(g: &Graph, id: TensorId, plan: &PlanOptions) -> f64 {
    let t = g.tensor(id);
    let dtype = if t.precision == Precision::Full { Dtype::F32 } else { plan.storage };
    (t.shape.numel() * dtype.bytes()) as f64
}

fn op_rows(flags: &Bench, plan: &PlanOptions, device: &Device) -> Result<Vec<OpRow>> {
    let (mut copy, mut product) = (f64::NAN, f64::NAN);
    let mut rows = Vec::new();
    for subject in subjects(flags.shrink) {
        let (median, min, flops, bytes) = time(&subject, plan, device, flags.repeat)?;
        match rows.len() {
            0 => copy = bytes / median,
            1 => product = flops / median,
            _ => {}
        }
        // What bounds the op is what would take longer at the ceilings.
        let share = (flops / product).max(bytes / copy) / median;
        rows.push(OpRow {
            op: subject.name,
            median_ms: 1e3 * median,
            min_ms: 1e3 * min,
            tflops: flops / median / 1e12,
            gigabytes_per_second: bytes / median / 1e9,
            share_of_ceiling: if rows.is_empty() { 1.0 } else { share },
        });
        let row = &rows[rows.len() - 1];
        if !flags.json {
            say!(
                "{:50} {:9.4} ms {:8.2} TFLOP/s {:8.1} GB/s {:5.0} % of the ceiling",
                row.op,
                row.median_ms,
                row.tflops,
                row.gigabytes_per_second,
                100.0 * row.share_of_ceiling
            )?;
        }
    }
    Ok(rows)
}

fn step_row(model: &Model, method: Method, flags: &Bench, batch: usize, device: &Device) -> Result<StepRow> {
    let operator = parse_task("sr4")?;
    let image = Shape::new(batch, flags.size, flags.size, 3);
    let settings = Settings { steps: 6, ..method.defaults() };
    let mut restorer = Restorer::new(model, &operator, &settings, image, flags.device.plan()?, device)?;
    let y = Measurer::new(operator.as_ref(), image)?.apply(&vec![0.25; image.item()], &[])?;
    let items: Vec<Item> = (0..batch)
        .map(|k| Item {
            measurement: Measurement { y: y.clone(), state: Vec::new(), noise_norm: 0.0 },
            seed: k as u64,
            sample: 0,
            label: None,
        })
        .collect();
    // The first level warms up and is not counted; the last DMAP level has no inner steps.
    let (mut marks, start) = (Vec::new(), Instant::now());
    restorer.restore(&items, |_| {
        marks.push(start.elapsed().as_secs_f64());
        ControlFlow::Continue(())
    })?;
    let mut steps: Vec<f64> = marks.windows(2).map(|w| w[1] - w[0]).take(settings.steps - 2).collect();
    steps.sort_by(f64::total_cmp);
    let seconds = steps[steps.len() / 2];
    let mut launches_per_step = 0;
    for (k, e) in restorer.executors().into_iter().enumerate() {
        let launches = launches_for(e.graph(), e.plan(), &device.limits().unwrap_or(Limits::HOPPER))?;
        let times = if k == 0 { 1 } else { settings.inner };
        launches_per_step += times * launches.iter().map(|n| n.launches.len()).sum::<usize>();
    }
    let defaults = method.defaults();
    let (arena_bytes, weight_bytes) = restorer.memory();
    Ok(StepRow {
        method: method.row().name,
        batch,
        launches_per_step,
        ms_per_step: 1e3 * seconds,
        images_per_hour: 3600.0 * batch as f64 / (seconds * defaults.steps as f64),
        arena_bytes,
        weight_bytes,
    })
}

pub(super) fn run(flags: Bench) -> anyhow::Result<ExitCode> {
    let (device, plan) = (flags.device.open()?, flags.device.plan()?);
    if !flags.json {
        say!("{}, storage {:?}, TF32 {}", device.name(), plan.storage, plan.tf32)?;
    }
    let ops = op_rows(&flags, &plan, &device)?;
    let model = match Model::open_or_shipped(&flags.model) {
        Ok(model) => model,
        Err(_) => Model::preset(&flags.model)?.with_random_weights(),
    };
    let mut steps = Vec::new();
    for method in [Method::Dps, Method::Dmap] {
        for &batch in &flags.batch {
            let row = step_row(&model, method, &flags, batch, &device)?;
            if !flags.json {
                say!(
                    "{} step of {} at {}x{}, batch {}: {:.2} ms, {} launches, {:.0} images per hour, {} MiB",
                    row.method,
                    model.name,
                    flags.size,
                    flags.size,
                    batch,
                    row.ms_per_step,
                    row.launches_per_step,
                    row.images_per_hour,
                    (row.arena_bytes + row.weight_bytes) >> 20
                )?;
            }
            steps.push(row);
        }
    }
    if flags.json {
        let report = Report {
            device: device.name(),
            version: env!("CARGO_PKG_VERSION"),
            nvrtc: crate::backend::cuda::images::NVRTC_VERSION,
            storage: format!("{:?}", plan.storage).to_lowercase(),
            tf32: plan.tf32,
            model: model.name,
            size: flags.size,
            ops,
            steps,
        };
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
