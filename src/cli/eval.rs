//! `dmap eval`: one raw evaluation from and to safetensors files, to check this program against
//! other software.

use super::device::DeviceFlags;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::graph::{Graph, TensorId, backward};
use crate::model::stable_diffusion::{TEXT_EMBEDDING, TextEncoder};
use crate::model::{Model, Prior};
use crate::operator::parse_task;
use crate::sampler::batch::Batch;
use crate::sampler::{Guidance, Moment, Phases, Schedule, Settings, Setup};
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
    /// x (N,H,W,C), of a latent model the latent in VP coordinates, and t (N); optionally labels
    /// (N), context (1,tokens,C), v (as the output); with --task y, and state for a mask or kernel;
    /// with --part text only tokens (T)
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
    /// One part of a latent model: its UNet, its encoder (x an image; mean and log variance), its
    /// decoder (x a scaled latent), or its text encoder
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

/// The input file, and those of its tensors that are inputs of the graph.
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

    /// Adds the VJP of `output` with respect to `x` with the cotangent `v`, if the file contains a
    /// tensor `v`.
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
    let inputs = Inputs { file: Checkpoint::open(input)?, values: Vec::new() };
    if inputs.file.tensors.contains_key("context") {
        replace_context(&mut model, &inputs.file)?;
    }
    let shape = inputs.shape("x")?;
    let expected = if flags.part == Some(Part::Encoder) { prior.image_channels() } else { prior.channels };
    if shape.c != expected {
        let reason = format!("tensor x has {} channels, the model works on {expected}", shape.c);
        return Err(inputs.file.error(reason).into());
    }
    let (read, because) = match flags.part {
        Some(part @ (Part::Encoder | Part::Decoder)) => evaluate_part(&flags, part, &model, inputs, shape)?,
        _ => evaluate_step(&flags, &model, &inputs.file, shape)?,
    };
    let tensors: Vec<_> = read.iter().map(|(n, s, v)| (*n, s.clone(), &v[..])).collect();
    write_safetensors(&flags.out, &tensors)?;
    say!("wrote {} to {}", read.iter().map(|r| r.0).collect::<Vec<_>>().join(", "), flags.out.display())?;
    if let Some((name, ..)) = read.iter().find(|(_, _, values)| !values.iter().all(|v| v.is_finite())) {
        let because = because.map_or(String::new(), |e| format!(": {e}"));
        let reason = format!("{name} in {} is not finite{because}", flags.out.display());
        return Err(Error::NotFinite { item: None, reason }.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Name, shape and values of each result. If a value is not finite, also the error with the first
/// node that produced one.
type Evaluated = (Vec<(&'static str, Vec<usize>, Vec<f32>)>, Option<Error>);

/// Evaluates the encoder or the decoder of a latent model.
fn evaluate_part(flags: &Eval, part: Part, model: &Model, mut inputs: Inputs, shape: Shape) -> Result<Evaluated> {
    let mut g = Graph::new();
    let x = inputs.add(&mut g, "x", shape)?;
    let none = || Error::Invalid("a pixel model has neither encoder nor decoder".into());
    let codec = model.network.codec().ok_or_else(none)?;
    let output = match part {
        Part::Encoder => codec.encode(&mut g, x)?,
        _ => codec.decode(&mut g, x)?,
    };
    let mut results = vec![("output", output)];
    inputs.add_vjp(&mut g, output, x, &mut results)?;
    results.iter().for_each(|r| g.output(r.1));
    let mut e = Executor::new(g, &flags.device.plan()?, &model.weights, &flags.device.open()?)?;
    inputs.values.iter().try_for_each(|(id, v)| e.write(*id, v))?;
    e.run()?;
    let read = |&(name, id): &(&'static str, TensorId)| {
        let s = e.graph().shape(id);
        Ok((name, vec![s.n, s.h, s.w, s.c], e.read(id)?))
    };
    let read = results.iter().map(read).collect::<Result<Vec<_>>>()?;
    let because = if is_finite(&read) { None } else { e.run_stepwise().err() };
    Ok((read, because))
}

fn is_finite(read: &[(&str, Vec<usize>, Vec<f32>)]) -> bool {
    read.iter().all(|(_, _, values)| values.iter().all(|v| v.is_finite()))
}

/// Evaluates one item after the other: the network, its estimate of the clean x and the requested
/// gradient. They are recorded the same way as samplers record them.
fn evaluate_step(flags: &Eval, model: &Model, file: &Checkpoint, shape: Shape) -> Result<Evaluated> {
    let prior = model.network.prior();
    let operator = parse_task(flags.task.as_deref().unwrap_or("denoise"))?;
    let t: Vec<f64> = numbers(file, "t", &[shape.n])?.into_iter().map(f64::from).collect();
    let schedule = Schedule::at(prior.noise_schedule, prior.diffusion_steps, t)?;
    let factor = prior.latent.map_or(1, |l| l.factor);
    let image = Shape::new(1, shape.h * factor, shape.w * factor, prior.image_channels());
    let device = flags.device.open()?;
    let settings = Settings::parse("unconditional", &prior)?;
    let usual = settings.setup(model, operator.as_ref(), image, flags.device.plan()?, &device)?;
    let setup = Setup { schedule, clip: flags.clip, ..usual };
    if setup.canvas() != (Shape { n: 1, ..shape }) {
        let reason = format!("tensor x has {}x{} pixels; the model takes multiples", shape.h, shape.w);
        return Err(file.error(format!("{reason} of {} pixels of an image", prior.size_multiple)));
    }
    operator.check(image)?;
    if flags.clip && prior.latent.is_some() {
        return Err(Error::Invalid(
            "--clip is for pixel models: a latent has no range of its own; leave it out".into(),
        ));
    }
    if flags.task.is_some() && file.tensors.contains_key("v") {
        return Err(file.error("tensor v is for a VJP without --task; leave one of them out"));
    }
    let (mut x, mut v, mut results) = (None, None, Vec::new());
    let mut phases = Phases::new(&setup);
    phases.add("step", |s| {
        let at = s.x();
        let estimate = s.estimate(at)?;
        results.extend([("output", estimate.output), ("x0", estimate.x0)]);
        if flags.task.is_some() {
            let residual = s.residual(estimate.x0, &Guidance::PLAIN)?;
            results.extend([("residual", residual), ("gradient", s.gradient(residual, at)?)]);
        } else if file.tensors.contains_key("v") {
            let cotangent = s.graph.input("v", s.graph.shape(estimate.output));
            results.push(("vjp", backward(&mut s.graph, estimate.output, cotangent, at)?));
            v = Some(cotangent);
        }
        x = Some(at);
        results.iter().for_each(|r| s.output(r.0, r.1));
        Ok(())
    })?;
    let mut phase = phases.finish().remove(0);
    let mut e = Executor::new(std::mem::take(&mut phase.graph), &setup.plan, setup.weights, &device)?;
    let mut read: Vec<(&str, Vec<usize>, Vec<f32>)> = (results.iter())
        .map(|&(name, id)| {
            let s = e.graph().shape(id);
            let extents = if name == "residual" { vec![shape.n] } else { vec![shape.n, s.h, s.w, s.c] };
            (name, extents, Vec::new())
        })
        .collect();
    let batches = batches(flags, &prior, file, &setup, shape)?;
    let cotangents = v.map(|id| numbers(file, "v", &extents(shape.n, e.graph().shape(id)))).transpose()?;
    let mut because = None;
    for (i, batch) in batches.iter().enumerate() {
        let level = setup.level(i);
        phase.write_batch(&mut e, batch)?;
        phase.write_moment(&mut e, &Moment { level, at: level, round: 0, earlier: 0 }, batch, &mut Vec::new())?;
        x.map_or(Ok(()), |id| e.write(id, &batch.x))?;
        if let (Some(id), Some(values)) = (v, &cotangents) {
            let item = e.graph().shape(id).numel();
            e.write(id, &values[i * item..][..item])?;
        }
        e.run()?;
        for ((_, _, values), (_, id)) in read.iter_mut().zip(&results) {
            values.extend(e.read(*id)?);
        }
        if because.is_none() && !is_finite(&read) {
            because = e.run_stepwise().err();
        }
    }
    Ok((read, because))
}

/// The values of the tensor `name`. Fails if its shape is not `extents`.
fn numbers(file: &Checkpoint, name: &str, extents: &[usize]) -> Result<Vec<f32>> {
    let given = file.numbers(name)?;
    match file.tensors.get(name).map(|t| &t.shape[..]) {
        Some(found) if found != extents => {
            Err(file.error(format!("tensor {name} has shape {found:?}, expected {extents:?}")))
        }
        _ => Ok(given),
    }
}

fn extents(items: usize, s: Shape) -> [usize; 4] {
    [items, s.h, s.w, s.c]
}

/// The inputs of each item, as batches of one.
fn batches(flags: &Eval, prior: &Prior, file: &Checkpoint, s: &Setup<'_>, x: Shape) -> Result<Vec<Batch>> {
    let labels = match prior.classes {
        Some(classes) => {
            let labels = numbers(file, "labels", &[x.n])?;
            let is_wrong = |label: &&f32| label.fract() != 0.0 || !(0.0..classes as f32).contains(*label);
            if let Some(label) = labels.iter().find(is_wrong) {
                let most = classes - 1;
                return Err(
                    file.error(format!("tensor labels holds {label}; the model has {classes} classes, 0 to {most}"))
                );
            }
            labels.into_iter().map(|l| vec![l]).collect()
        }
        None => vec![Vec::new(); x.n],
    };
    let (y_item, state_item) =
        (s.measurement_shape().numel(), s.operator.state_shape(s.image).map_or(0, |shape| shape.numel()));
    let (mut y, mut state) = (Vec::new(), Vec::new());
    if flags.task.is_some() {
        y = numbers(file, "y", &extents(x.n, s.measurement_shape()))?;
        state = match s.operator.state_shape(s.image).filter(|_| file.tensors.contains_key("state")) {
            Some(shape) => numbers(file, "state", &extents(x.n, shape))?,
            None => s.operator.draw_state(s.image, flags.seed)?.repeat(x.n),
        };
    } else {
        y.resize(x.n * y_item, 0.0);
    }
    let values = numbers(file, "x", &extents(x.n, x))?;
    let item = |(i, labels): (usize, Vec<f32>)| Batch {
        x: values[i * x.item()..][..x.item()].to_vec(),
        y: y[i * y_item..][..y_item].to_vec(),
        state: state[i * state_item..][..state_item].to_vec(),
        labels,
        seeds: vec![(0, 0)],
        noise_norm: vec![0.0],
        noise_sigma: vec![0.0],
        is_frozen: vec![false],
        ..Batch::default()
    };
    Ok(labels.into_iter().enumerate().map(item).collect())
}

/// Replaces the model's text embedding by the one of the file. Fails if their numbers of values
/// differ.
fn replace_context(model: &mut Model, file: &Checkpoint) -> Result<()> {
    let own = model.weights.given(TEXT_EMBEDDING).map_or(0, |v| v.len());
    let values = file.values("context")?;
    if own == 0 || own != values.len() {
        return Err(file.error(format!("tensor context has {} values, the model's text has {own}", values.len())));
    }
    model.weights.replace(TEXT_EMBEDDING, values);
    Ok(())
}

/// Writes the hidden states of a text twice: as `output`, and as `prompt_embeds`, the name that a
/// model folder uses.
fn embed_text(flags: &Eval) -> anyhow::Result<ExitCode> {
    let folder = Path::new(&flags.model);
    let encoder = TextEncoder::open(folder)?;
    let tokens = match (&flags.input, &flags.prompt) {
        (Some(input), _) => Checkpoint::open(input)?.numbers("tokens")?,
        (None, prompt) => encoder.tokens(folder, prompt.as_deref().unwrap_or_default())?,
    };
    let output = encoder.embed(&tokens)?;
    let shape = vec![1, tokens.len(), encoder.channels()];
    write_safetensors(&flags.out, &[("output", shape.clone(), &output[..]), (TEXT_EMBEDDING, shape, &output[..])])?;
    say!("wrote output, {TEXT_EMBEDDING} to {}", flags.out.display())?;
    Ok(ExitCode::SUCCESS)
}
