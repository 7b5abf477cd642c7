//! Times one step of the training of a conditional score estimator, and where the time goes.
//!
//!     cargo bench --bench training -- --size 64 --batch 8
//!
//! `tools/peers/train_step.py` runs this next to PyTorch in turn.

mod per_op;

use clap::Parser;
use dmap::backend::Device;
use dmap::graph::PlanOptions;
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::train::{Example, Photos, TrainSettings, Trainer};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "photo")]
    model: String,
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long, default_value_t = 8)]
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
    let (model, operator) = (Model::open_or_shipped(&a.model)?, parse_task("denoise")?);
    let mut settings = TrainSettings::new((a.size, a.size));
    settings.batch = a.batch;
    let options = PlanOptions::default().memory(a.memory.map(|m| m << 20));
    let photos = Photos::default();
    let mut trainer = Trainer::new(&model, operator.as_ref(), &photos, settings, options, &Device::cpu())?;
    let image: Vec<f32> = (0..a.size * a.size * 3).map(|i| (i * 7919 % 255) as f32 / 127.5 - 1.0).collect();
    let example = |k: usize| Example { image: image.clone(), condition: image.clone(), timestep: 100 * (k % 10) };
    trainer.step_on(&[(0..a.batch).map(example).collect()])?;
    per_op::print(trainer.executor(), a.repeat, a.shapes)
}
