//! The time of a graph's runs, and which ops it goes to.

use dmap::executor::Executor;
use dmap::graph::TensorId;
use dmap::tensor::Shape;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Runs the graph `repeat` times and prints one line for all of it and one per op, or per op and
/// shapes, the longest first.
pub fn print(e: &mut Executor, repeat: usize, with_shapes: bool) -> anyhow::Result<()> {
    let mut whole: Vec<Duration> = Vec::new();
    let mut per_op: BTreeMap<String, (usize, Duration, u64)> = BTreeMap::new();
    let mut work = 0;
    for _ in 0..repeat {
        let start = Instant::now();
        let times = e.time_nodes()?;
        whole.push(start.elapsed());
        for (step, time) in e.plan().steps.iter().zip(&times) {
            let node = e.graph().node(step.node);
            let shapes = |ids: &[TensorId]| ids.iter().map(|&i| e.graph().shape(i)).collect::<Vec<Shape>>();
            let flops = node.op.flops(&shapes(&node.inputs), &shapes(&node.outputs));
            let name = match with_shapes {
                true => format!(
                    "{} {} -> {}",
                    node.op.name(),
                    e.graph().shape(node.inputs[0]),
                    e.graph().shape(node.outputs[0])
                ),
                false => node.op.name().to_string(),
            };
            let entry = per_op.entry(name).or_default();
            entry.0 += 1;
            entry.1 += *time;
            entry.2 += flops;
            work += flops;
        }
    }
    whole.sort();
    let (plan, median) = (e.plan(), whole[whole.len() / 2].as_secs_f64());
    println!(
        "median {:.4} s (min {:.4}, max {:.4}), {:.0} GFLOP/s, arena {} MiB, weights {} MiB, {} threads",
        median,
        whole[0].as_secs_f64(),
        whole[whole.len() - 1].as_secs_f64(),
        (work / repeat as u64) as f64 / median / 1e9,
        plan.arena_bytes >> 20,
        plan.weight_bytes >> 20,
        rayon::current_num_threads()
    );
    let mut rows: Vec<_> = per_op.into_iter().collect();
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    rows.sort_by_key(|r| std::cmp::Reverse(r.1.1));
    for (name, (count, time, flops)) in rows {
        let seconds = time.as_secs_f64();
        println!(
            "{name:width$} {:4} launches {:9.3} ms {:7.1} GFLOP/s",
            count / repeat,
            1e3 * seconds / repeat as f64,
            flops as f64 / seconds / 1e9
        );
    }
    Ok(())
}
