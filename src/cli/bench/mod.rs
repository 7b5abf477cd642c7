//! `dmap bench`: the speed of a device for single ops, whole steps and single nodes. Every row is
//! printed as soon as it is measured.

mod nodes;
mod ops;
mod steps;

use super::device::DeviceFlags;
use crate::backend::Device;
use crate::error::{Error, Result, shown};
use crate::graph::PlanOptions;
use crate::model::Model;
use crate::report::{BenchmarkRow, benchmark_page, check_place, write_page};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `dmap bench`.
#[derive(clap::Args, Debug)]
pub struct Bench {
    #[command(flatten)]
    device: DeviceFlags,
    /// Only these: ops, steps, nodes (of a DPS step)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Prior of the whole steps: a weight file, `photo`, or an architecture, which gets random weights
    #[arg(long, default_value = "photo")]
    model: String,
    /// Image size of the whole steps
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Batches of the whole steps; nodes are those of the first
    #[arg(long, default_value = "1,4,16", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Levels of the whole steps, at least 4
    #[arg(long, default_value_t = 12)]
    levels: usize,
    /// Divides the extents of the op rows, for slow devices
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    shrink: u32,
    /// Timed runs of each op; the median counts
    #[arg(long, default_value_t = 20)]
    repeat: usize,
    /// Time every kernel variant that takes an op, not only the one that runs
    #[arg(long)]
    variants: bool,
    /// Print one JSON object per row
    #[arg(long)]
    json: bool,
    /// Write a page with the rows as tables with bars; it stands by itself and needs no network
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// The values of `--only`.
const KINDS: [&str; 3] = ["ops", "steps", "nodes"];

/// Prints rows, and counts those that failed.
struct Rows {
    json: bool,
    failed: usize,
    /// The rows so far, for the page.
    printed: Vec<BenchmarkRow>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    row: &'a str,
    name: &'a str,
    #[serde(flatten)]
    values: Option<T>,
    error: Option<String>,
}

impl Rows {
    /// Prints a row, or the error that prevented it. Fails if the device itself has failed, because
    /// no later row could be measured.
    fn print<T: Serialize>(
        &mut self,
        row: &str,
        name: &str,
        measured: Result<T>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        let (values, failure) = match measured {
            Ok(values) => (Some(values), None),
            Err(e) => (None, Some(e)),
        };
        self.failed += usize::from(failure.is_some());
        let error = failure.as_ref().map(|e| e.to_string());
        let kept = values.as_ref().map(serde_json::to_value).transpose();
        self.printed.push(BenchmarkRow {
            kind: row.into(),
            name: name.into(),
            values: kept.map_err(|e| Error::Invalid(e.to_string()))?.unwrap_or_default(),
            error: error.clone(),
        });
        if self.json {
            let line = Line { row, name, values, error };
            say!("{}", serde_json::to_string(&line).map_err(|e| Error::Invalid(e.to_string()))?)?;
        } else {
            say!("{name:50} {}", values.as_ref().map_or_else(|| error.unwrap_or_default(), text))?;
        }
        match failure {
            Some(e @ Error::Failed(_)) => Err(e),
            _ => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Machine {
    version: &'static str,
    nvrtc: Option<&'static str>,
    storage: &'static str,
    tf32: bool,
    multiprocessors: Option<usize>,
}

pub(super) fn run(flags: Bench) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = flags.only.iter().find(|o| !KINDS.contains(&o.as_str())) {
        return Err(Error::Invalid(format!("--only {unknown}: {} can be chosen", KINDS.join(", "))).into());
    }
    if let Some(report) = &flags.report {
        check_place(report)?;
    }
    let (device, plan) = (flags.device.open()?, flags.device.plan()?);
    let free = device.free_bytes()?;
    let mut rows = Rows { json: flags.json, failed: 0, printed: Vec::new() };
    let machine = Machine {
        version: env!("CARGO_PKG_VERSION"),
        nvrtc: crate::backend::cuda::images::NVRTC_VERSION,
        storage: plan.storage.name(),
        tf32: plan.tf32,
        multiprocessors: device.chip().map(|l| l.multiprocessors),
    };
    rows.print("machine", &device.name(), Ok(machine), |m| format!("storage {}, TF32 {}", m.storage, m.tf32))?;
    let measured = measure(&flags, &device, &plan, free, &mut rows);
    if let Some(report) = &flags.report {
        let (machine, measured) = rows.printed.split_first().expect("the machine is the first row");
        write_page(report, &benchmark_page(machine, measured))?;
        complain!("look at {}", shown(report));
    }
    measured?;
    Ok(if rows.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures and prints the rows that the flags select.
fn measure(
    flags: &Bench,
    device: &Device,
    plan: &PlanOptions,
    free: Option<u64>,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let wanted = |kind: &str| flags.only.is_empty() || flags.only.iter().any(|o| o == kind);
    if wanted("ops") {
        ops::run(flags, plan, device, rows)?;
    }
    if wanted("steps") || wanted("nodes") {
        let model = match Model::open_or_shipped(&flags.model) {
            Ok(model) => model,
            Err(_) => Model::architecture(&flags.model)?.with_random_weights(),
        };
        if wanted("steps") {
            steps::run(flags, &model, device, free, rows)?;
        }
        if wanted("nodes") {
            nodes::run(flags, &model, device, rows)?;
        }
    }
    Ok(())
}
