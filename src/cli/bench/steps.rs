//! Whole steps of DPS and levels of DMAP.

use super::{Bench, Rows};
use crate::backend::Device;
use crate::backend::cuda::launches_for;
use crate::error::Result;
use crate::launch::Chip;
use crate::model::Model;
use crate::operator::parse_task;
use crate::sampler::{Item, Measurement, Measurer, Restorer, Settings};
use crate::tensor::Shape;
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

#[derive(Serialize)]
struct StepRow {
    model: String,
    method: &'static str,
    size: usize,
    batch: usize,
    launches_per_step: usize,
    /// Milliseconds of a DPS step, or of a DMAP level with its inner steps.
    ms_per_step: f64,
    /// Milliseconds per evaluation of the network with its VJP, which is comparable between
    /// methods.
    ms_per_evaluation: f64,
    /// Images restored per hour with the method's default settings.
    images_per_hour: f64,
    arena_bytes: u64,
    weight_bytes: u64,
    /// Device memory in bytes taken since the program started, as the driver reports it.
    taken_bytes: Option<u64>,
}

/// Number of levels between two copies of x to the host, which check that x is finite. Levels with
/// a copy are not counted.
const COPIED_EVERY: usize = 4;

fn step_row(
    model: &Model,
    method: &'static str,
    flags: &Bench,
    batch: usize,
    device: &Device,
    free: Option<u64>,
) -> Result<StepRow> {
    let operator = parse_task("sr4")?;
    let image = Shape::new(batch, flags.size, flags.size, 3);
    let usual = Settings::parse(method, &model.network.prior())?;
    let (usual_steps, settings) = (usual.steps, Settings { steps: flags.levels.max(4), ..usual });
    let mut restorer = Restorer::new(model, &operator, &settings, image, flags.device.plan()?, device)?;
    let y = Measurer::new(operator.as_ref(), Shape { n: 1, ..image })?.apply(&vec![0.25; image.item()], &[])?;
    let items: Vec<Item> = (0..batch)
        .map(|k| Item {
            measurement: Measurement { y: y.clone(), state: Vec::new(), noise_norm: 0.0 },
            seed: k as u64,
            sample: 0,
            label: None,
        })
        .collect();
    // The first level warms up and is not counted; the last DMAP level has no inner steps.
    let (mut marks, start) = (Vec::new(), Instant::now());
    restorer.restore(&items, |_| {
        marks.push(start.elapsed().as_secs_f64());
        ControlFlow::Continue(())
    })?;
    let levels = (1..settings.steps - 1).filter(|k| (k + 1) % COPIED_EVERY != 0);
    let mut steps: Vec<f64> = levels.map(|k| marks[k] - marks[k - 1]).collect();
    steps.sort_by(f64::total_cmp);
    let seconds = steps[steps.len() / 2];
    // A level like the timed ones, and the last level, where DMAP does not ascend.
    let levels = restorer.runs()?;
    let (last, runs) = (&levels[0], &levels[1]);
    let mut launches_per_step = 0;
    for (e, times) in restorer.executors().into_iter().zip(runs) {
        let launches = launches_for(e.graph(), e.plan(), &device.chip().unwrap_or(Chip::HOPPER))?;
        launches_per_step += times * launches.iter().map(|n| n.launches.len()).sum::<usize>();
    }
    let passes = restorer.passes();
    let of_level = |runs: &[usize]| passes.iter().zip(runs).map(|(passes, times)| passes * times).sum::<usize>();
    let seconds_per_pass = seconds / of_level(runs) as f64;
    let passes_of_an_image = of_level(last) + (usual_steps - 1) * of_level(runs);
    let (arena_bytes, weight_bytes) = restorer.memory();
    Ok(StepRow {
        model: model.name.clone(),
        method,
        size: flags.size,
        batch,
        launches_per_step,
        ms_per_step: 1e3 * seconds,
        ms_per_evaluation: 2e3 * seconds_per_pass,
        images_per_hour: 3600.0 * batch as f64 / (seconds_per_pass * passes_of_an_image as f64),
        arena_bytes,
        weight_bytes,
        taken_bytes: free.zip(device.free_bytes()?).map(|(before, now)| before.saturating_sub(now)),
    })
}

pub(super) fn run(flags: &Bench, model: &Model, device: &Device, free: Option<u64>, rows: &mut Rows) -> Result<()> {
    for method in ["dps", "dmap"] {
        for &batch in &flags.batch {
            let name = format!("{} of {}, {}x{}, batch {batch}", method, model.name, flags.size, flags.size);
            rows.print("step", &name, step_row(model, method, flags, batch, device, free), |r| {
                format!(
                    "{:9.2} ms, {:.2} ms an evaluation, {} launches, {:.0} images per hour, {} MiB planned{}",
                    r.ms_per_step,
                    r.ms_per_evaluation,
                    r.launches_per_step,
                    r.images_per_hour,
                    (r.arena_bytes + r.weight_bytes) >> 20,
                    r.taken_bytes.map_or(String::new(), |t| format!(", {} MiB taken", t >> 20))
                )
            })?;
        }
    }
    Ok(())
}
