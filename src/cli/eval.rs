//! `dmap eval`: one raw evaluation from and to safetensors files, for checking this program against other software.

use super::device::DeviceFlags;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, TensorId, backward};
use crate::model::stable_diffusion::{CONTEXT, TextEncoder};
use crate::model::{Model, Prior};
use crate::operator::parse_task;
use crate::ops::clamp::Clamp;
use crate::ops::concat::ChannelSlice;
use crate::ops::norm::ResidualNorm;
use crate::sampler::Schedule;
use crate::tensor::Shape;
use crate::weights::{Checkpoint, write_safetensors};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `dmap eval`.
#[derive(clap::Args, Debug)]
pub struct Eval {
    /// Weight file, or folder of a latent model; `photo` and `tiny-latent` are inside the program
    #[arg(long, default_value = "photo")]
    model: String,
    /// x (N,H,W,C), of a latent model the code in VP coordinates, and t (N); optionally labels (N), context (1,tokens,C), v (as the
    /// output); with --task y, and state for a mask or kernel; with --part text only tokens (T)
    #[arg(long, required_unless_present = "prompt", conflicts_with = "prompt")]
    input: Option<PathBuf>,
    /// With --part text, a text in place of token numbers; without --input
    #[arg(long)]
    prompt: Option<String>,
    /// output, x0; vjp of v; with --task residual (N) and gradient of the residual norm at x
    #[arg(long)]
    out: PathBuf,
    /// The measurement operator
    #[arg(long)]
    task: Option<String>,
    /// One part of a latent model: its UNet, its encoder (x an image; mean and log variance), its decoder (x a scaled code), or its text
    /// encoder
    #[arg(long, value_enum, conflicts_with = "task")]
    part: Option<Part>,
    /// Seed of the operator's state where the input has none
    #[arg(long, default_value_t = 0, requires = "task")]
    seed: u64,
    /// Limit x0 to [-1, 1], as samplers do in pixel space
    #[arg(long, conflicts_with = "part")]
    clip: bool,
    #[command(flatten)]
    device: DeviceFlags,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Part {
    Unet,
    Encoder,
    Decoder,
    Text,
}

/// The file that is evaluated: its tensors as they become inputs of the graph.
struct Inputs {
    file: Checkpoint,
    values: Vec<(TensorId, Vec<f32>)>,
}

impl Inputs {
    fn shape(&self, name: &str) -> Result<Shape> {
        let found = self.file.tensors.get(name).map(|t| t.shape.clone()).unwrap_or_default();
        match found[..] {
            [n, h, w, c] if n * h * w * c > 0 => Ok(Shape::new(n, h, w, c)),
            _ => Err(self
                .file
                .error(format!("tensor {name} should have shape (n, height, width, channels) but has {found:?}"))),
        }
    }

    fn add(&mut self, g: &mut Graph, name: &str, shape: Shape) -> Result<TensorId> {
        let given = self.file.numbers(name)?;
        if given.len() != shape.numel() {
            return Err(self.file.error(format!("tensor {name} has {} values, expected {shape}", given.len())));
        }
        let id = g.input(name, shape);
        self.values.push((id, given));
        Ok(id)
    }

    /// The class of each of `n` images.
    fn add_labels(&mut self, g: &mut Graph, n: usize, classes: usize) -> Result<TensorId> {
        let wrong = |label: &f32| label.fract() != 0.0 || !(0.0..classes as f32).contains(label);
        if let Some(label) = self.file.numbers("labels")?.into_iter().find(wrong) {
            let reason = format!("tensor labels holds {label}; the model has {classes} classes, 0 to {}", classes - 1);
            return Err(self.file.error(reason));
        }
        self.add(g, "labels", Shape::rows(n, 1))
    }

    /// The VJP of `v` from `output` to `x`, where there is a v.
    fn add_vjp(
        &mut self,
        g: &mut Graph,
        output: TensorId,
        x: TensorId,
        results: &mut Vec<(&'static str, TensorId)>,
    ) -> Result<()> {
        if self.file.tensors.contains_key("v") {
            let v = self.add(g, "v", g.shape(output))?;
            results.push(("vjp", backward(g, output, v, x)?));
        }
        Ok(())
    }
}

pub(super) fn run(flags: Eval) -> anyhow::Result<ExitCode> {
    if flags.part == Some(Part::Text) {
        return embed_text(&flags);
    }
    let Some(input) = &flags.input else {
        return Err(Error::Invalid("--prompt is for --part text; give --input".into()).into());
    };
    let mut model = Model::open_or_shipped(&flags.model)?;
    let prior = model.network.prior();
    if flags.part.is_some() && prior.latent.is_none() {
        return Err(Error::Invalid(format!("--part is for latent models; {} is a pixel model", flags.model)).into());
    }
    let mut inputs = Inputs { file: Checkpoint::open(input)?, values: Vec::new() };
    if inputs.file.tensors.contains_key("context") {
        replace_context(&mut model, &inputs.file)?;
    }
    let shape = inputs.shape("x")?;
    let expected = if flags.part == Some(Part::Encoder) { prior.image_channels() } else { prior.channels };
    if shape.c != expected {
        let reason = format!("tensor x has {} channels, the model works on {expected}", shape.c);
        return Err(inputs.file.error(reason).into());
    }
    let mut g = Graph::new();
    let x = inputs.add(&mut g, "x", shape)?;
    let results = match flags.part {
        Some(Part::Encoder) => {
            let output = model.network.encode(&mut g, x)?;
            let mut results = vec![("output", output)];
            inputs.add_vjp(&mut g, output, x, &mut results)?;
            results
        }
        Some(Part::Decoder) => {
            let output = model.network.decode(&mut g, x)?;
            let mut results = vec![("output", output)];
            inputs.add_vjp(&mut g, output, x, &mut results)?;
            results
        }
        _ => record_model(&flags, &model, &prior, &mut g, &mut inputs, x)?,
    };
    results.iter().for_each(|r| g.output(r.1));
    let mut e = Executor::new(g, &flags.device.plan()?, &model.weights, &flags.device.open()?)?;
    inputs.values.iter().try_for_each(|(id, v)| e.write(*id, v))?;
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
    say!("wrote {} to {}", results.iter().map(|r| r.0).collect::<Vec<_>>().join(", "), flags.out.display())?;
    if let Some((name, ..)) = read.iter().find(|(_, _, values)| !values.iter().all(|v| v.is_finite())) {
        let because = e.run_stepwise().err().map_or(String::new(), |e| format!(": {e}"));
        let reason = format!("{name} in {} is not finite{because}", flags.out.display());
        return Err(Error::NotFinite { item: None, reason }.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// The network, its estimate of the clean x, and the gradient that was asked for.
fn record_model(
    flags: &Eval,
    model: &Model,
    prior: &Prior,
    g: &mut Graph,
    inputs: &mut Inputs,
    x: TensorId,
) -> Result<Vec<(&'static str, TensorId)>> {
    let shape = g.shape(x);
    let t = inputs.add(g, "t", Shape::rows(shape.n, 1))?;
    let labels = prior.classes.map(|classes| inputs.add_labels(g, shape.n, classes)).transpose()?;
    let output = model.network.record(g, x, t, labels)?;
    let coefficients = g.input("coefficients", Shape::rows(shape.n, 2));
    inputs.values.push((coefficients, clean_rows(prior, &inputs.file)?));
    let predicted = match prior.learn_sigma {
        true => g.one(ChannelSlice { start: 0, len: prior.channels }, "eps", &[output])?,
        false => output,
    };
    let mut x0 = g.combine("x0", coefficients, &[(0, x), (1, predicted)])?;
    if flags.clip {
        x0 = g.one(Clamp { low: -1.0, high: 1.0 }, "x0.clip", &[x0])?;
    }
    let mut results = vec![("output", output), ("x0", x0)];
    let Some(task) = &flags.task else {
        inputs.add_vjp(g, output, x, &mut results)?;
        return Ok(results);
    };
    let operator = parse_task(task)?;
    let image = model.network.decode(g, x0)?;
    let seen = g.shape(image);
    operator.check(seen)?;
    let y = inputs.add(g, "y", operator.measurement_shape(seen))?;
    let state = match operator.state_shape(seen) {
        Some(s) if inputs.file.tensors.contains_key("state") => Some(inputs.add(g, "state", s)?),
        Some(s) => {
            let id = g.input("state", s);
            let one = operator.draw_state(Shape { n: 1, ..seen }, flags.seed)?;
            inputs.values.push((id, one.iter().copied().cycle().take(s.numel()).collect()));
            Some(id)
        }
        None => None,
    };
    let a = operator.build(g, image, state)?;
    let residual = g.one(ResidualNorm, "residual", &[a, y])?;
    let one = g.constant("one", Shape::rows(shape.n, 1), vec![1.0; shape.n]);
    let gradient = backward(g, residual, one, x)?;
    results.extend([("residual", residual), ("gradient", gradient)]);
    Ok(results)
}

/// x0 = a x + b out at each item's timestep.
fn clean_rows(prior: &Prior, file: &Checkpoint) -> Result<Vec<f32>> {
    let t = file.numbers("t")?.into_iter().map(f64::from).collect();
    let schedule = Schedule::at(&prior.noise_schedule, prior.diffusion_steps, t)?;
    let rows = (0..schedule.steps()).map(|i| schedule.clean(i, prior.prediction));
    Ok(rows.flat_map(|(a, b)| [a as f32, b as f32]).collect())
}

/// Another embedded text than the model's own, of the same extent.
fn replace_context(model: &mut Model, file: &Checkpoint) -> Result<()> {
    let own = model.weights.given(CONTEXT).map_or(0, |v| v.len());
    let values = file.values("context")?;
    if own == 0 || own != values.len() {
        return Err(file.error(format!("tensor context has {} values, the model's text has {own}", values.len())));
    }
    model.weights.replace(CONTEXT, values);
    Ok(())
}

/// Writes the hidden states of a text as `output`, and as `prompt_embeds` under which a model folder may keep them.
fn embed_text(flags: &Eval) -> anyhow::Result<ExitCode> {
    let folder = Path::new(&flags.model);
    let encoder = TextEncoder::open(folder)?;
    let tokens = match (&flags.input, &flags.prompt) {
        (Some(input), _) => Checkpoint::open(input)?.numbers("tokens")?,
        (None, prompt) => encoder.tokens(folder, prompt.as_deref().unwrap_or_default())?,
    };
    let output = encoder.embed(&tokens)?;
    let shape = vec![1, tokens.len(), encoder.channels()];
    write_safetensors(&flags.out, &[("output", shape.clone(), &output[..]), (CONTEXT, shape, &output[..])])?;
    say!("wrote output, {CONTEXT} to {}", flags.out.display())?;
    Ok(ExitCode::SUCCESS)
}
