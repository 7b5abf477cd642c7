//! Every method gives the bits that it gave before: tests/data/methods.tsv has a hash of the
//! picture and of the residuals of small runs on the CPU in f32, and the residual of the picture.
//!
//! They do not depend on the width of a CPU's vector instructions. On a CPU without AVX2 the
//! residual is compared to four digits.

use dmap::backend::Device;
use dmap::graph::{PlanOptions, Shape};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::sampler::{Item, METHODS, Measurement, Noise, Restorer, Settings, Spacing, Variance};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::path::Path;

/// FNV-1a over the bits of the values.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// The settings of a row: three inner steps of whatever kind, published steps for the mask.
fn settings(method: &str, task: &str, model: &Model) -> Settings {
    let prior = model.network.prior();
    let row = METHODS.iter().find(|m| m.name == method).unwrap();
    let is_published = task == "inpaint-random" && (row.options.contains("step=") || method == "unconditional");
    let inner = match method {
        "dmap" | "stsl" | "p2l" => "k=3",
        "lgd" => "samples=3",
        "freedom" => "passes=2",
        "resample" => "iterations=3",
        "daps" => "k=3,ode=2",
        _ => "",
    };
    let guided = is_published && method != "unconditional";
    let parts = [inner, if guided { "step=published:0.5" } else { "" }];
    let transpose = if guided && method == "psld" { "transpose=published" } else { "" };
    let options: Vec<&str> = parts.into_iter().chain([transpose]).filter(|o| !o.is_empty()).collect();
    let mut s = Settings::parse(&format!("{method}:{}", options.join(",")), &prior).unwrap();
    s.steps = if method == "resample" { 12 } else { 5 };
    if is_published {
        s.spacing = Spacing::Linear;
    }
    match method {
        "dps" if is_published => s.variance(Variance::FixedLarge).clip(false),
        "unconditional" if is_published => s.eta(0.5),
        _ => s,
    }
}

/// Runs a row of the table: its line as it would be written now, with what differs.
fn run(line: &str) -> (String, Vec<String>) {
    let columns: Vec<&str> = line.split('\t').collect();
    let [name, method, task, .., residual] = columns[..] else { panic!("{line}") };
    let mut model = Model::open_with_prompt(name, None).unwrap();
    if method == "cse" {
        model = model.with_control(Path::new("tests/data/adm_control_cse.safetensors"), 1.0).unwrap();
    }
    let side = if name == "photo" { 24 } else { 64 };
    let image = Shape::new(1, side, side, 3);
    let operator = parse_task(task).unwrap();
    let x: Vec<f32> = (0..image.numel()).map(|i| (i as f32 * 0.1).sin() * 0.5).collect();
    let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(0.025), 3).unwrap();
    let settings = settings(method, task, &model);
    let mut r = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), &Device::cpu()).unwrap();
    r.set_poison(true);
    let item = Item::new(measurement, 5).sample(1);
    let found = r.restore(&[item], |_| ControlFlow::Continue(())).unwrap().remove(0);

    let hashes = [hash(&found.picture.values), hash(&found.residuals)].map(|h| format!("{h:016x}"));
    let now = format!("{name}\t{method}\t{task}\t{}\t{}", hashes.join("\t"), found.residual);
    let mut wrong = Vec::new();
    for (k, what) in ["picture", "residuals"].iter().enumerate() {
        if is_x86_feature_detected!("avx2") && hashes[k] != columns[3 + k] {
            wrong.push(format!("{name} {method} {task}: other {what}"));
        }
    }
    let expected: f64 = residual.parse().unwrap();
    if (found.residual / expected - 1.0).abs() > 1e-4 || found.residual.is_nan() {
        wrong.push(format!("{name} {method} {task}: residual {}, was {expected}", found.residual));
    }
    (now, wrong)
}

#[test]
fn every_method_gives_the_bits_that_it_gave_before() {
    let table = include_str!("data/methods.tsv");
    let lines: Vec<&str> = table.lines().collect();
    let (now, wrong): (Vec<String>, Vec<Vec<String>>) = lines.par_iter().map(|line| run(line)).unzip();
    if std::env::var_os("DMAP_WRITE_METHODS").is_some() {
        now.iter().for_each(|line| println!("{line}"));
        return;
    }
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for row in METHODS {
        assert!(table.lines().any(|l| l.split('\t').nth(1) == Some(row.name)), "{} is not in the table", row.name);
    }
}
