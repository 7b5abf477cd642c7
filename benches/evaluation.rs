//! Times one evaluation of a prior, forward and VJP, and where the time goes.
//!
//!     cargo bench --bench evaluation -- --size 256 --repeat 10
//!
//! `tools/peers/evaluation.py` runs this next to PyTorch in turn.

use clap::Parser;
use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::model::{Conditioning, Model};
use dmap::noise::{Draw, NoiseKey, fill_normal};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "photo")]
    model: String,
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 10)]
    repeat: usize,
    /// Memory budget in MiB.
    #[arg(long)]
    memory: Option<u64>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let a = Arguments::parse();
    let model = Model::open_or_shipped(&a.model)?;
    let shape = Shape::new(a.batch, a.size, a.size, model.network.prior().channels);
    let mut g = Graph::new();
    let x = g.input("x", shape);
    let t = g.input("t", Shape::rows(a.batch, 1));
    let out = model.network.record(&mut g, x, t, &Conditioning::default())?;
    let out_shape = g.shape(out);
    let v = g.input("v", out_shape);
    let dx = backward(&mut g, out, v, x)?;
    g.output(dx);
    let options = PlanOptions::default().memory(a.memory.map(|m| m << 20));
    let mut e = Executor::new(g, &options, &model.weights, &Device::cpu())?;
    for (id, s) in [(x, shape), (v, out_shape)] {
        let mut values = vec![0.0; s.numel()];
        fill_normal(&NoiseKey { seed: 1, image: 0, step: 0, draw: Draw::Start }.to_words(), 0, &mut values);
        e.write(id, &values)?;
    }
    e.write(t, &vec![300.0; a.batch])?;
    e.run()?;
    let mut whole: Vec<Duration> = Vec::new();
    let mut per_op: BTreeMap<&str, (usize, Duration, u64)> = BTreeMap::new();
    for _ in 0..a.repeat {
        let start = Instant::now();
        let times = e.time_nodes()?;
        whole.push(start.elapsed());
        for (step, time) in e.plan().steps.iter().zip(&times) {
            let node = e.graph().node(step.node);
            let shapes = |ids: &[dmap::graph::TensorId]| ids.iter().map(|&i| e.graph().shape(i)).collect::<Vec<_>>();
            let entry = per_op.entry(node.op.name()).or_default();
            entry.0 += 1;
            entry.1 += *time;
            entry.2 += node.op.flops(&shapes(&node.inputs), &shapes(&node.outputs));
        }
    }
    whole.sort();
    let plan = e.plan();
    let flops = (plan.flops_forward + plan.flops_vjp + plan.flops_recompute) as f64;
    let median = whole[whole.len() / 2].as_secs_f64();
    println!(
        "median {:.4} s (min {:.4}, max {:.4}), {:.0} GFLOP/s, arena {} MiB, weights {} MiB, {} threads",
        median,
        whole[0].as_secs_f64(),
        whole[whole.len() - 1].as_secs_f64(),
        flops / median / 1e9,
        plan.arena_bytes >> 20,
        plan.weight_bytes >> 20,
        rayon::current_num_threads()
    );
    let mut rows: Vec<_> = per_op.into_iter().collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.1.1));
    for (name, (count, time, flops)) in rows {
        let seconds = time.as_secs_f64();
        println!(
            "{name:20} {:4} launches {:9.3} ms {:7.1} GFLOP/s",
            count / a.repeat,
            1e3 * seconds / a.repeat as f64,
            flops as f64 / seconds / 1e9
        );
    }
    Ok(())
}
