//! `dmap eval`: one raw evaluation from and to safetensors files, for checking this program against other software.

use super::device::DeviceFlags;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, Shape, TensorId, backward};
use crate::model::Model;
use crate::operator::parse_task;
use crate::ops::clamp::Clamp;
use crate::ops::concat::ChannelSlice;
use crate::ops::norm::ResidualNorm;
use crate::sampler::Schedule;
use crate::sampler::Spacing;
use crate::weights::{Checkpoint, write_safetensors};
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap eval`.
#[derive(clap::Args, Debug)]
pub struct Eval {
    /// Weight file; `photo` is the one inside the program
    #[arg(long, default_value = "photo")]
    model: String,
    /// x (N,H,W,C), t (N); optionally labels (N), v (as the output); with --task y, and state for a mask or kernel
    #[arg(long)]
    input: PathBuf,
    /// output, x0; vjp of v; with --task residual (N) and gradient of the residual norm at x
    #[arg(long)]
    out: PathBuf,
    /// The measurement operator
    #[arg(long)]
    task: Option<String>,
    /// Seed of the operator's state where the input has none
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Limit x0 to [-1, 1], as samplers do
    #[arg(long)]
    clip: bool,
    #[command(flatten)]
    device: DeviceFlags,
}

pub(super) fn run(flags: Eval) -> anyhow::Result<ExitCode> {
    let model = Model::open_or_shipped(&flags.model)?;
    let prior = model.network.prior();
    let file = Checkpoint::open(&flags.input)?;
    let shape = file_shape(&file, "x")?;
    let c = prior.channels;
    if shape.c != c {
        return Err(file.error(format!("tensor x has {} channels, the model works on {c}", shape.c)).into());
    }
    let mut values: Vec<(TensorId, Vec<f32>)> = Vec::new();
    let mut g = Graph::new();
    let mut input = |g: &mut Graph, name: &str, shape: Shape| -> Result<TensorId> {
        let given = file.values(name)?;
        if given.len() != shape.numel() {
            return Err(file.error(format!("tensor {name} has {} values, expected {shape}", given.len())));
        }
        let id = g.input(name, shape);
        values.push((id, given));
        Ok(id)
    };
    let x = input(&mut g, "x", shape)?;
    let t = input(&mut g, "t", Shape::rows(shape.n, 1))?;
    let labels = if prior.classes.is_some() { Some(input(&mut g, "labels", Shape::rows(shape.n, 1))?) } else { None };
    let output = model.network.record(&mut g, x, t, labels)?;
    g.output(output);

    let coefficients = g.input("coefficients", Shape::rows(shape.n, 2));
    let eps = match prior.learn_sigma {
        true => g.one(ChannelSlice { start: 0, len: c }, "eps", &[output])?,
        false => output,
    };
    let mut x0 = g.combine("x0", coefficients, &[(0, x), (1, eps)])?;
    if flags.clip {
        x0 = g.one(Clamp { low: -1.0, high: 1.0 }, "x0.clip", &[x0])?;
    }
    g.output(x0);
    let mut results = vec![("output", output), ("x0", x0)];
    if let Some(task) = &flags.task {
        let operator = parse_task(task)?;
        operator.check(shape)?;
        let y = input(&mut g, "y", operator.measurement_shape(shape))?;
        let state = match operator.state_shape(shape) {
            Some(s) if file.tensors.contains_key("state") => Some(input(&mut g, "state", s)?),
            Some(s) => {
                let id = g.input("state", s);
                let one = operator.draw_state(Shape { n: 1, ..shape }, flags.seed)?;
                values.push((id, one.iter().copied().cycle().take(s.numel()).collect()));
                Some(id)
            }
            None => None,
        };
        let a = operator.build(&mut g, x0, state)?;
        let residual = g.one(ResidualNorm, "residual", &[a, y])?;
        let one = g.constant("one", Shape::rows(shape.n, 1), vec![1.0; shape.n]);
        let gradient = backward(&mut g, residual, one, x)?;
        results.extend([("residual", residual), ("gradient", gradient)]);
    } else if file.tensors.contains_key("v") {
        let v_shape = g.shape(output);
        let v = input(&mut g, "v", v_shape)?;
        results.push(("vjp", backward(&mut g, output, v, x)?));
    }
    results.iter().for_each(|r| g.output(r.1));

    let schedule = Schedule::new(&prior.noise_schedule, prior.diffusion_steps, prior.diffusion_steps, Spacing::Linear)?;
    let levels = tweedie(&schedule, &file)?;
    let mut e = Executor::new(g, &flags.device.plan()?, &model.weights, &flags.device.open()?)?;
    values.iter().try_for_each(|(id, v)| e.write(*id, v))?;
    e.write(coefficients, &levels)?;
    e.run()?;
    let read: Vec<(&str, Vec<usize>, Vec<f32>)> = (results.iter())
        .map(|&(name, id)| {
            let s = e.graph().shape(id);
            let extents = if name == "residual" { vec![s.n] } else { vec![s.n, s.h, s.w, s.c] };
            Ok((name, extents, e.read(id)?))
        })
        .collect::<Result<_>>()?;
    let tensors: Vec<_> = read.iter().map(|(n, s, v)| (*n, s.clone(), &v[..])).collect();
    write_safetensors(&flags.out, &tensors)?;
    println!("wrote {} to {}", results.iter().map(|r| r.0).collect::<Vec<_>>().join(", "), flags.out.display());
    Ok(ExitCode::SUCCESS)
}

fn file_shape(file: &Checkpoint, name: &str) -> Result<Shape> {
    let found = file.tensors.get(name).map(|t| t.shape.clone()).unwrap_or_default();
    match found[..] {
        [n, h, w, c] if n * h * w * c > 0 => Ok(Shape::new(n, h, w, c)),
        _ => Err(file.error(format!("tensor {name} should have shape (n, height, width, channels) but has {found:?}"))),
    }
}

/// x0 = a x + b eps at each item's timestep, which is a whole number of the training schedule.
fn tweedie(schedule: &Schedule, file: &Checkpoint) -> Result<Vec<f32>> {
    let mut rows = Vec::new();
    for t in file.values("t")? {
        if t < 0.0 || t.fract() != 0.0 || t as usize >= schedule.steps() {
            return Err(Error::Invalid(format!(
                "t is {t}; expected a whole number from 0 to {}",
                schedule.steps() - 1
            )));
        }
        let (a, b) = schedule.tweedie(t as usize);
        rows.extend([a as f32, b as f32]);
    }
    Ok(rows)
}
