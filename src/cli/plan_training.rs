//! `dmap plan --train`: memory and work of a step that trains a conditional score estimator.

use super::quantity::readable;
use crate::error::Result;
use crate::graph::{ALIGNMENT, Graph, Plan, PlanOptions, TrainedWeight};
use crate::model::Model;
use crate::operator::Operator;
use crate::train::{TrainSettings, Trainer};
use serde::Serialize;

/// Memory in bytes and work of a training step.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    size: [usize; 2],
    batch: usize,
    task: String,
    trained_parameters: usize,
    /// Weights of the frozen networks, in the storage type.
    frozen_weight_bytes: u64,
    /// Trained weights, their gradients and AdamW's two moments, each in f32.
    trained_weight_bytes: u64,
    gradient_bytes: u64,
    moment_bytes: u64,
    /// Activations and copies of weights in the storage type.
    arena_bytes: u64,
    /// Images, text and other inputs.
    input_bytes: u64,
    total_bytes: u64,
    flops_forward: u64,
    flops_vjp: u64,
    flops_recompute: u64,
    traffic_bytes: u64,
}

/// Plans a step and prints the report.
pub(super) fn run(
    model: &Model,
    operator: &dyn Operator,
    size: (usize, usize),
    batch: usize,
    options: &PlanOptions,
    json: bool,
) -> Result<()> {
    let mut settings = TrainSettings::new(size);
    settings.batch = batch;
    let (graph, plan) = Trainer::plan(model, operator, &settings, options)?;
    let report = report(model, operator, &settings, &graph, &plan);
    if json {
        return say!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    }
    print(&report)
}

fn report<'a>(
    model: &'a Model,
    operator: &dyn Operator,
    settings: &TrainSettings,
    graph: &Graph,
    plan: &Plan,
) -> Report<'a> {
    let trained_parameters: usize = graph.trained().iter().map(|w| graph.shape(w.kept).numel()).sum();
    let bytes_of = |w: &TrainedWeight| (4 * graph.shape(w.kept).numel() as u64).next_multiple_of(ALIGNMENT);
    let trained_weight_bytes = graph.trained().iter().map(bytes_of).sum::<u64>();
    Report {
        model: &model.name,
        size: [settings.size.0, settings.size.1],
        batch: settings.batch,
        task: operator.task(),
        trained_parameters,
        frozen_weight_bytes: plan.weight_bytes,
        trained_weight_bytes,
        gradient_bytes: trained_weight_bytes,
        moment_bytes: 2 * trained_weight_bytes,
        arena_bytes: plan.arena_bytes,
        input_bytes: plan.io_bytes - 4 * trained_weight_bytes,
        total_bytes: plan.total_bytes(),
        flops_forward: plan.flops_forward,
        flops_vjp: plan.flops_vjp,
        flops_recompute: plan.flops_recompute,
        traffic_bytes: plan.traffic_bytes,
    }
}

fn print(r: &Report<'_>) -> Result<()> {
    let giga = |flops: u64| format!("{:.1} GFLOP", flops as f64 / 1e9);
    let [w, h] = r.size;
    say!(
        "one training step of a conditional score estimator, {}, {w}x{h}, batch {}, task {}",
        r.model,
        r.batch,
        r.task
    )?;
    say!("  trained          {:.1} M parameters", r.trained_parameters as f64 / 1e6)?;
    say!("  frozen weights   {}", readable(r.frozen_weight_bytes))?;
    say!("  trained weights  {}", readable(r.trained_weight_bytes))?;
    say!("  gradients        {}", readable(r.gradient_bytes))?;
    say!("  moments          {}", readable(r.moment_bytes))?;
    say!("  arena            {}", readable(r.arena_bytes))?;
    say!("  inputs           {}", readable(r.input_bytes))?;
    say!("  total            {}", readable(r.total_bytes))?;
    let share = 100.0 * r.flops_recompute as f64 / (r.flops_forward + r.flops_vjp).max(1) as f64;
    say!("  forward          {}", giga(r.flops_forward))?;
    say!("  reverse          {}", giga(r.flops_vjp))?;
    say!("  recomputed       {} ({share:.1} % more)", giga(r.flops_recompute))
}
