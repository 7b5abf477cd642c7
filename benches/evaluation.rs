//! Times one evaluation of a prior, forward and VJP, and where the time goes.
//!
//!     cargo bench --bench evaluation -- --size 256 --repeat 10
//!
//! `tools/peers/evaluation.py` runs this next to PyTorch in turn.

mod per_op;

use clap::Parser;
use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, backward};
use dmap::model::{Conditioning, Model};
use dmap::noise::{Draw, NoiseKey, fill_normal};

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
    /// A line for each op and shape.
    #[arg(long)]
    shapes: bool,
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
    per_op::print(&mut e, a.repeat, a.shapes)
}
