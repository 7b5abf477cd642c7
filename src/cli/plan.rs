//! `dmap plan`: memory and work of a step, computed without weights or a device.

use super::device::StorageFlags;
use super::plan_training;
use super::quantity::{readable, size};
use super::sampler_flags::SamplerFlags;
use super::time_model::{self, CARD, Work};
use crate::backend::Device;
use crate::backend::cuda::launches_for;
use crate::error::Result;
use crate::graph::{Graph, Plan, PlanOptions, Step};
use crate::image::write_whole;
use crate::launch::{Chip, NodeLaunches};
use crate::model::Model;
use crate::operator::parse_task;
use crate::sampler::{Method, Noise, Setup, method};
use crate::tensor::{Dtype, Shape};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap plan`.
#[derive(clap::Args, Debug)]
pub struct PlanArguments {
    /// Architecture (`dmap tasks` lists them) or weight file
    #[arg(long)]
    model: String,
    /// Image size: S or WxH
    #[arg(long, default_value = "512")]
    size: String,
    #[command(flatten)]
    storage: StorageFlags,
    /// Images at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// The measurement
    #[arg(long, default_value = "sr4")]
    task: String,
    #[command(flatten)]
    sampler: SamplerFlags,
    /// With a conditional score estimator
    #[arg(long)]
    cse: bool,
    /// Plan a step that trains a conditional score estimator
    #[arg(long, conflicts_with_all = ["cse", "svg", "nodes"])]
    train: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw memory over the step
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write a line of JSON per node: kernels, blocks, work, and the time that the model of the card
    /// predicts
    #[arg(long, value_name = "FILE")]
    nodes: Option<PathBuf>,
}

/// A node of a graph as `--nodes` writes it.
#[derive(Serialize)]
struct NodeRow<'a> {
    graph: &'static str,
    name: &'a str,
    kernels: &'a str,
    kernel: &'a str,
    blocks: f64,
    launches: usize,
    operations: f64,
    cached_bytes: f64,
    memory_bytes: f64,
    predicted_us: f64,
}

impl NodeRow<'_> {
    fn of<'a>(graph: &'static str, (name, work): &'a (String, Work)) -> NodeRow<'a> {
        NodeRow {
            graph,
            name,
            kernels: &work.kernels,
            kernel: &work.kernel,
            blocks: work.blocks,
            launches: work.launches,
            operations: work.operations,
            cached_bytes: work.cached_bytes,
            memory_bytes: work.memory_bytes,
            predicted_us: 1e6 * work.seconds(),
        }
    }
}

/// One graph of a method.
#[derive(Serialize)]
struct GraphRow {
    name: &'static str,
    /// Runs per step, at the noise level with the most work. For the decoder: runs per image.
    runs: usize,
    arena_bytes: u64,
    io_bytes: u64,
    flops_forward: u64,
    flops_vjp: u64,
    flops_recompute: u64,
    launches: usize,
}

/// Memory and work of a step: bytes that are held at the same time, and work summed over the runs
/// of all graphs.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    size: [usize; 2],
    batch: usize,
    method: String,
    task: String,
    weight_bytes: u64,
    host_weight_bytes: u64,
    arena_bytes: u64,
    io_bytes: u64,
    total_bytes: u64,
    minimum_total_bytes: u64,
    /// Bytes of scratch memory on a GPU like an H100, not part of the total. Kernels of one node
    /// pass values to each other in it.
    scratch_bytes: u64,
    flops_forward: u64,
    flops_vjp: u64,
    flops_recompute: u64,
    launches: usize,
    /// Milliseconds of the step on the card of the time model; none in f32.
    predicted_ms: Option<f64>,
    traffic_bytes: u64,
    traffic_lower_bound: u64,
    traffic_once: u64,
    /// Noise levels of one image, and its network passes: forward evaluations plus VJPs.
    levels: usize,
    passes: usize,
    graphs: Vec<GraphRow>,
    live_at_peak: Vec<(String, u64)>,
}

/// A graph with its plan.
struct Planned {
    name: &'static str,
    runs: usize,
    graph: Graph,
    plan: Plan,
    work: Vec<(String, Work)>,
    launches: usize,
    scratch_bytes: u64,
    smallest: u64,
}

impl Planned {
    fn new(name: &'static str, runs: usize, graph: Graph, options: &PlanOptions) -> Result<Planned> {
        let plan = Plan::new(&graph, options)?;
        let nodes = launches_for(&graph, &plan, &Chip::HOPPER)?;
        let launches = nodes.iter().map(|n| n.launches.len()).sum();
        let work = |(step, n): (&Step, &NodeLaunches)| {
            let node = graph.node(step.node);
            (node.name.clone(), Work::of(&graph, node, &n.launches, options.storage))
        };
        let work = plan.steps.iter().zip(&nodes).map(work).collect();
        let scratch_bytes = nodes.iter().map(|n| n.scratch_bytes).max().unwrap_or_default();
        let smallest = Plan::smallest(&graph, options).total_bytes().min(plan.total_bytes());
        Ok(Planned { name, runs, graph, plan, work, launches, scratch_bytes, smallest })
    }

    /// Seconds of a run by the time model.
    fn seconds(&self) -> f64 {
        let node =
            |(_, work): &(String, Work)| if work.launches == 0 { 0.0 } else { work.seconds() + time_model::gap() };
        self.work.iter().map(node).sum()
    }

    /// A line of JSON for each node.
    fn node_rows(&self) -> anyhow::Result<String> {
        let lines: Vec<String> = self
            .work
            .iter()
            .map(|w| serde_json::to_string(&NodeRow::of(self.name, w)))
            .collect::<serde_json::Result<_>>()?;
        Ok(lines.join("\n") + "\n")
    }

    fn row(&self) -> GraphRow {
        GraphRow {
            name: self.name,
            runs: self.runs,
            arena_bytes: self.plan.arena_bytes,
            io_bytes: Plan::io_bytes_of(&self.graph, self.plan.storage),
            flops_forward: self.plan.flops_forward,
            flops_vjp: self.plan.flops_vjp,
            flops_recompute: self.plan.flops_recompute,
            launches: self.launches,
        }
    }
}

/// The name of the graph that decodes the final latent to an image.
const DECODER: &str = "decoder";

/// Every graph of a method, and the decoder of a latent model; and the network passes of one image.
fn planned(setup: &Setup<'_>, method: &dyn Method) -> Result<(Vec<Planned>, usize)> {
    let mut machine = method::rehearse(method, setup)?;
    let runs = method::runs(method, &mut machine)?;
    let passes = |runs: &Vec<usize>| method::passes_of(runs, &machine);
    // Among levels with equal work a later one is taken, because the first level may do extra work
    // once per image.
    let most = runs.iter().rev().max_by_key(|runs| passes(runs)).cloned().unwrap_or_default();
    let of_phases = machine.phases().iter().zip(most).map(|(p, n)| (p.name, n, p.graph.clone()));
    let all: Vec<_> = of_phases.chain(setup.decoder()?.map(|(g, ..)| (DECODER, 1, g))).collect();
    let plan = |(name, runs, g): &(&'static str, usize, Graph)| {
        let options = setup.plan_of(g, all.iter().map(|a| &a.2));
        Planned::new(name, *runs, g.clone(), &options)
    };
    Ok((all.iter().map(plan).collect::<Result<_>>()?, runs.iter().map(passes).sum()))
}

pub(super) fn run(flags: PlanArguments) -> anyhow::Result<ExitCode> {
    let mut model = Model::file_or_architecture(&flags.model)?;
    if flags.cse {
        model = model.with_usual_control()?;
    }
    let (w, h) = size(&flags.size)?;
    let operator = parse_task(&flags.task)?;
    if flags.train {
        let (batch, options) = (flags.batch as usize, flags.storage.plan()?);
        plan_training::run(&model, operator.as_ref(), (w, h), batch, &options, flags.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let prior = model.network.prior();
    let settings = flags.sampler.settings(&model, operator.as_ref(), Noise::default(), 1)?;
    let image = Shape::new(flags.batch as usize, h, w, prior.image_channels());
    let (options, cpu) = (flags.storage.plan()?, Device::cpu());
    let setup = settings.setup(&model, operator.as_ref(), image, options, &cpu)?;
    let (all, passes) = planned(&setup, settings.method.as_ref())?;
    let largest = all.iter().max_by_key(|p| p.plan.total_bytes()).expect("every method has a graph");
    if let Some(path) = &flags.svg {
        write_whole(path, drawing(&largest.plan).as_bytes())?;
    }
    if let Some(path) = &flags.nodes {
        let rows: Vec<String> = all.iter().map(Planned::node_rows).collect::<anyhow::Result<_>>()?;
        write_whole(path, rows.concat().as_bytes())?;
    }
    let live = largest.plan.live_at_peak(&largest.graph);
    let live_count = live.len();
    let live_at_peak = live.into_iter().take(16).map(|(name, bytes)| (name.to_string(), bytes)).collect();
    let step: Vec<&Planned> = all.iter().filter(|p| p.name != DECODER).collect();
    let sum = |of: &dyn Fn(&Plan) -> u64| step.iter().map(|p| p.runs as u64 * of(&p.plan)).sum::<u64>();
    let most = |of: &dyn Fn(&Plan) -> u64| all.iter().map(|p| of(&p.plan)).max().unwrap_or_default();
    let (arena_bytes, weight_bytes) = (most(&|p| p.arena_bytes), most(&|p| p.weight_bytes));
    let io_bytes = most(&|p| p.io_bytes);
    let report = Report {
        model: &flags.model,
        size: [w, h],
        batch: flags.batch as usize,
        method: settings.method.method(),
        task: operator.task(),
        weight_bytes,
        host_weight_bytes: most(&|p| p.window.as_ref().map_or(0, |w| w.host_bytes)),
        arena_bytes,
        io_bytes,
        total_bytes: weight_bytes + arena_bytes + io_bytes,
        minimum_total_bytes: all.iter().map(|p| p.smallest).max().unwrap_or_default(),
        scratch_bytes: all.iter().map(|p| p.scratch_bytes).max().unwrap_or_default(),
        flops_forward: sum(&|p| p.flops_forward),
        flops_vjp: sum(&|p| p.flops_vjp),
        flops_recompute: sum(&|p| p.flops_recompute),
        launches: step.iter().map(|p| p.runs * p.launches).sum(),
        predicted_ms: (options.storage != Dtype::F32)
            .then(|| step.iter().map(|p| p.runs as f64 * 1e3 * p.seconds()).sum()),
        traffic_bytes: sum(&|p| p.traffic_bytes),
        traffic_lower_bound: sum(&|p| p.traffic_lower_bound),
        traffic_once: sum(&|p| p.traffic_once),
        levels: settings.steps,
        passes,
        graphs: all.iter().map(Planned::row).collect(),
        live_at_peak,
    };
    if flags.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report, largest, live_count)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(r: &Report<'_>, largest: &Planned, live_count: usize) -> Result<()> {
    let giga = |flops: u64| format!("{:.1} GFLOP", flops as f64 / 1e9);
    say!("one step of {}, {}, {}x{}, batch {}, task {}", r.method, r.model, r.size[0], r.size[1], r.batch, r.task)?;
    say!("  weights          {}", readable(r.weight_bytes))?;
    if r.host_weight_bytes > 0 {
        say!("  with the host    {} of weights, copied when they are read", readable(r.host_weight_bytes))?;
    }
    say!("  arena            {}", readable(r.arena_bytes))?;
    say!("  inputs           {}", readable(r.io_bytes))?;
    say!("  total            {} (smallest plan found: {})", readable(r.total_bytes), readable(r.minimum_total_bytes))?;
    say!("  scratch          {} more on a Hopper GPU", readable(r.scratch_bytes))?;
    let share = 100.0 * r.flops_recompute as f64 / (r.flops_forward + r.flops_vjp).max(1) as f64;
    say!("  forward          {}", giga(r.flops_forward))?;
    say!("  reverse          {}", giga(r.flops_vjp))?;
    say!("  recomputed       {} ({share:.1} % more)", giga(r.flops_recompute))?;
    say!("  launches         {} on {} multiprocessors", r.launches, Chip::HOPPER.multiprocessors)?;
    if let Some(ms) = r.predicted_ms {
        say!("  time             {ms:.1} ms on an {CARD}, by a model that was fitted to measurements")?;
    }
    say!("  one image        {} levels, {} network passes", r.levels, r.passes)?;
    if r.graphs.len() > 1 {
        say!("  graphs:")?;
        for g in &r.graphs {
            let (work, per) = (giga(g.flops_forward + g.flops_vjp), if g.name == DECODER { "image" } else { "step" });
            say!("    {:10} {} x per {per}, {work}, arena {}", g.name, g.runs, readable(g.arena_bytes))?;
        }
    }
    let peak = largest.graph.node(largest.plan.steps[largest.plan.peak_step].node);
    say!("  {live_count} values live at the peak, in {} of {}:", peak.name, largest.name)?;
    for (name, bytes) in &r.live_at_peak {
        say!("    {:>10}  {name}", readable(*bytes))?;
    }
    if live_count > r.live_at_peak.len() {
        say!("    and {} smaller ones", live_count - r.live_at_peak.len())?;
    }
    Ok(())
}

/// An SVG of the live bytes over the steps of the plan. Forward, reverse and recomputed steps have
/// different colours.
fn drawing(plan: &Plan) -> String {
    let (width, height) = (960.0, 320.0);
    let top = plan.arena_bytes.max(1) as f64;
    let step = width / plan.memory.len().max(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fafaf8\"/>\n",
        width + 40.0,
        height + 80.0
    );
    for (i, point) in plan.memory.iter().enumerate() {
        let colour = match (point.recomputed, point.reverse) {
            (true, _) => "#d08030",
            (_, true) => "#b04030",
            _ => "#4070a0",
        };
        let bar = point.live as f64 / top * height;
        let _ = writeln!(
            svg,
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{bar:.2}\" fill=\"{colour}\"/>",
            20.0 + i as f64 * step,
            30.0 + height - bar,
            step + 0.1
        );
    }
    let words = [
        (20.0, 20.0, "#222", format!("arena {}, weights {}", readable(plan.arena_bytes), readable(plan.weight_bytes))),
        (20.0, height + 52.0, "#4070a0", "forward".into()),
        (90.0, height + 52.0, "#b04030", "reverse".into()),
        (160.0, height + 52.0, "#d08030", "recomputed".into()),
        (260.0, height + 52.0, "#222", format!("live bytes over {} steps", plan.memory.len())),
    ];
    for (x, y, colour, text) in words {
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{text}</text>");
    }
    svg + "</svg>\n"
}
