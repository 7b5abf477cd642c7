//! Measures every node of a DPS step by itself. Rows are sorted by time, longest first, and contain
//! the time that a simple model of the chip predicts.

use super::{Bench, Rows};
use crate::backend::Device;
use crate::backend::cuda::launches_for;
use crate::cli::time_model::Work;
use crate::error::Result;
use crate::executor::Executor;
use crate::launch::Chip;
use crate::model::Model;
use crate::operator::parse_task;
use crate::sampler::{Phases, Settings};
use crate::tensor::Shape;
use serde::Serialize;

#[derive(Serialize)]
struct NodeRow {
    kernels: String,
    us: f64,
    predicted_us: f64,
    launches: usize,
    tflops: f64,
    gigabytes_per_second: f64,
    operations: f64,
    cached_bytes: f64,
    memory_bytes: f64,
}

#[derive(Serialize)]
struct SumRow {
    nodes: usize,
    us: f64,
    predicted_us: f64,
}

/// The rows (name, row) of the nodes of a DPS step, longest time first.
fn node_rows(flags: &Bench, model: &Model, device: &Device) -> Result<Vec<(String, NodeRow)>> {
    let operator = parse_task("sr4")?;
    let settings = Settings::parse("dps", &model.network.prior())?;
    let plan = flags.device.plan()?;
    let image = Shape::new(flags.batch.first().copied().unwrap_or(1), flags.size, flags.size, 3);
    let setup = settings.setup(model, operator.as_ref(), image, plan, device)?;
    let mut phases = Phases::new(&setup);
    settings.method.record(&mut phases)?;
    let step = phases.finish().remove(0);
    let mut e = Executor::new(step.graph, &plan, &model.weights, device)?;
    e.run()?;
    let times = e.time_nodes()?;
    let launches = launches_for(e.graph(), e.plan(), &device.chip().unwrap_or(Chip::HOPPER))?;
    let mut rows: Vec<(String, NodeRow)> = (e.plan().steps.iter().zip(times).zip(&launches))
        .map(|((step, time), launched)| {
            let node = e.graph().node(step.node);
            let work = Work::of(e.graph(), node, &launched.launches, plan.storage);
            let seconds = time.as_secs_f64();
            let row = NodeRow {
                us: 1e6 * seconds,
                predicted_us: 1e6 * work.seconds(),
                launches: work.launches,
                tflops: work.operations / seconds / 1e12,
                gigabytes_per_second: (work.cached_bytes + work.memory_bytes) / seconds / 1e9,
                operations: work.operations,
                cached_bytes: work.cached_bytes,
                memory_bytes: work.memory_bytes,
                kernels: work.kernels,
            };
            (node.name.clone(), row)
        })
        .collect();
    rows.sort_by(|a, b| b.1.us.total_cmp(&a.1.us));
    Ok(rows)
}

pub(super) fn run(flags: &Bench, model: &Model, device: &Device, rows: &mut Rows) -> Result<()> {
    let name = format!("dps of {}, {}x{}", model.name, flags.size, flags.size);
    let nodes = match node_rows(flags, model, device) {
        Ok(nodes) => nodes,
        Err(e) => return rows.print("node", &name, Err::<SumRow, _>(e), |_| String::new()),
    };
    let sum = |of: &dyn Fn(&NodeRow) -> f64| nodes.iter().map(|n| of(&n.1)).sum::<f64>();
    let total = SumRow { nodes: nodes.len(), us: sum(&|n| n.us), predicted_us: sum(&|n| n.predicted_us) };
    rows.print("sum of nodes", &name, Ok(total), |r| {
        format!("{} nodes {:10.1} us, predicted {:10.1} us", r.nodes, r.us, r.predicted_us)
    })?;
    for (name, row) in nodes {
        rows.print("node", &name, Ok(row), |r| {
            format!(
                "{:9.2} us, predicted {:9.2} us, {:7.1} TFLOP/s {:7.0} GB/s, {} launches: {}",
                r.us, r.predicted_us, r.tflops, r.gigabytes_per_second, r.launches, r.kernels
            )
        })?;
    }
    Ok(())
}
