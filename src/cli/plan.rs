//! `dmap plan`: what a step needs, without weights or a device.

use super::SamplerFlags;
use super::device::StorageFlags;
use super::quantity::{readable, size};
use crate::backend::Device;
use crate::backend::cuda::launches_for;
use crate::error::{Error, Result};
use crate::graph::{Graph, Plan};
use crate::image::write_whole;
use crate::launch::Limits;
use crate::model::Model;
use crate::operator::parse_task;
use crate::sampler::{Schedule, Setup};
use crate::tensor::Shape;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap plan`.
#[derive(clap::Args, Debug)]
pub struct PlanArguments {
    /// Preset or weight file
    #[arg(long)]
    model: String,
    /// Image size: S or WxH
    #[arg(long, default_value = "512")]
    size: String,
    #[command(flatten)]
    storage: StorageFlags,
    /// Images at the same time
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// The measurement
    #[arg(long, default_value = "sr4")]
    task: String,
    #[command(flatten)]
    sampler: SamplerFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw memory over the step
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    size: [usize; 2],
    batch: usize,
    method: &'a str,
    task: String,
    weight_bytes: u64,
    host_weight_bytes: u64,
    arena_bytes: u64,
    io_bytes: u64,
    total_bytes: u64,
    minimum_total_bytes: u64,
    flops_forward: u64,
    flops_vjp: u64,
    flops_recompute: u64,
    launches: usize,
    traffic_bytes: u64,
    traffic_lower_bound: u64,
    traffic_once: u64,
    live_at_peak: Vec<(&'a str, u64)>,
}

pub(super) fn run(flags: PlanArguments) -> anyhow::Result<ExitCode> {
    let model = Model::file_or_preset(&flags.model)?;
    let (w, h) = size(&flags.size)?;
    if flags.batch == 0 {
        return Err(Error::Invalid("--batch 0: choose at least 1".into()).into());
    }
    let operator = parse_task(&flags.task)?;
    let prior = model.network.prior();
    let settings = flags.sampler.settings(&prior, operator.as_ref())?;
    let schedule = Schedule::new(&prior.noise_schedule, prior.diffusion_steps, settings.steps, settings.spacing)?;
    let options = flags.storage.plan()?;
    let setup = Setup {
        network: model.network.as_ref(),
        prior: &prior,
        weights: &model.weights,
        operator: operator.as_ref(),
        image: Shape::new(flags.batch, h, w, prior.image_channels()),
        settings: &settings,
        schedule: &schedule,
        plan: options,
        device: &Device::cpu(),
    };
    let row = settings.method.row();
    let graph = (row.graph)(&setup)?;
    let plan = Plan::new(&graph, &options)?;
    let smallest = Plan::smallest(&graph, &options).total_bytes().min(plan.total_bytes());
    let mut live = plan.live_at_peak(&graph);
    let live_count = live.len();
    live.truncate(16);
    if let Some(path) = &flags.svg {
        write_whole(path, drawing(&plan).as_bytes())?;
    }
    let report = Report {
        model: &flags.model,
        size: [w, h],
        batch: flags.batch,
        method: row.name,
        task: operator.task(),
        weight_bytes: plan.weight_bytes,
        host_weight_bytes: plan.window.as_ref().map_or(0, |w| w.host_bytes),
        arena_bytes: plan.arena_bytes,
        io_bytes: plan.io_bytes,
        total_bytes: plan.total_bytes(),
        minimum_total_bytes: smallest,
        flops_forward: plan.flops_forward,
        flops_vjp: plan.flops_vjp,
        flops_recompute: plan.flops_recompute,
        launches: launches_for(&graph, &plan, &Limits::HOPPER)?.iter().map(|n| n.launches.len()).sum(),
        traffic_bytes: plan.traffic_bytes,
        traffic_lower_bound: plan.traffic_lower_bound,
        traffic_once: plan.traffic_once,
        live_at_peak: live,
    };
    if flags.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report, &graph, &plan, live_count)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(r: &Report<'_>, graph: &Graph, plan: &Plan, live_count: usize) -> Result<()> {
    let giga = |flops: u64| format!("{:.1} GFLOP", flops as f64 / 1e9);
    say!("one {} step of {}, {}x{}, batch {}, task {}", r.method, r.model, r.size[0], r.size[1], r.batch, r.task)?;
    say!("  weights          {}", readable(r.weight_bytes))?;
    if r.host_weight_bytes > 0 {
        say!("  with the host    {} of weights, copied when they are read", readable(r.host_weight_bytes))?;
    }
    say!("  arena            {}", readable(r.arena_bytes))?;
    say!("  inputs           {}", readable(r.io_bytes))?;
    say!("  total            {} (smallest plan found: {})", readable(r.total_bytes), readable(r.minimum_total_bytes))?;
    let share = 100.0 * r.flops_recompute as f64 / (r.flops_forward + r.flops_vjp) as f64;
    say!("  forward          {}", giga(r.flops_forward))?;
    say!("  reverse          {}", giga(r.flops_vjp))?;
    say!("  recomputed       {} ({share:.1} % more)", giga(r.flops_recompute))?;
    say!("  launches         {} on {} multiprocessors", r.launches, Limits::HOPPER.multiprocessors)?;
    let peak = graph.node(plan.steps[plan.peak_step].node);
    say!("  {live_count} values live at the peak, in {}:", peak.name)?;
    for (name, bytes) in &r.live_at_peak {
        say!("    {:>10}  {name}", readable(*bytes))?;
    }
    if live_count > r.live_at_peak.len() {
        say!("    and {} smaller ones", live_count - r.live_at_peak.len())?;
    }
    Ok(())
}

/// Live bytes over the steps as an SVG: forward, reverse and recomputed steps in different colours.
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
