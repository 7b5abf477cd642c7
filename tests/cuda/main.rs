//! The CUDA backend on the emulated device: the emulator catches planted mistakes, whole steps
//! agree with the CPU, and no kernel is left out.
#![cfg(feature = "emulate")]

mod faults;
mod in_place;
mod training;

use dmap::backend::Device;
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::backend::cuda::launches_for;
use dmap::compare::relative_error;
use dmap::executor::Executor;
use dmap::graph::{Dtype, Graph, Plan, PlanOptions, Shape, backward};
use dmap::launch::{Chip, Forced};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::ops::variant_tables::known;
use dmap::sampler::{Conditioned, Item, METHODS, Measurement, Measurer, Restorer, Settings, Variance};
use dmap::weights::{Weights, write_safetensors_with};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

/// The chip of a test that varies it with the order: an odd order has the shared memory of consumer
/// chips.
fn chip_for(order: u64) -> EmulatedChip {
    if order % 2 == 1 { EmulatedChip::Ada } else { EmulatedChip::Hopper }
}

fn emulated(order: u64) -> Device {
    Device::emulated(Emulated::new(chip_for(order), order))
}

/// Two levels of `method` on a small network with random weights, 16x16.
fn restore(model: &str, task: &str, settings: &Settings, plan: PlanOptions, device: &Device) -> (Vec<f32>, Vec<f32>) {
    let model = Path::new(model);
    // A folder of tests/data that has a ControlNet is steered by it where the method asks for one.
    let control = model.join("controlnet");
    let model = Model::open(model).unwrap();
    let model = match settings.method.conditioned() {
        Conditioned::Always => model.with_control(&control, 1.0).unwrap(),
        _ => model,
    };
    let operator = parse_task(task).unwrap();
    let image = Shape::new(2, 16, 16, 3);
    let mut x = vec![0f32; image.item()];
    x.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.8);
    let state = operator.draw_state(image, 5).unwrap();
    let y = Measurer::new(operator.as_ref(), image).unwrap().apply(&x, &state).unwrap();
    let item = |seed| {
        Item::new(Measurement::new(y.clone(), state.clone(), 0.1), seed)
            .label(Some(1).filter(|_| model.network.prior().classes.is_some()))
    };
    let mut restorer = Restorer::new(&model, &operator, settings, image, plan, device).unwrap();
    restorer.set_poison(true);
    let restored = restorer.restore(&[item(3), item(4)], |_| ControlFlow::Continue(())).unwrap();
    let residuals = restored.iter().flat_map(|r| r.residuals.clone()).collect();
    (restored.into_iter().flat_map(|r| r.picture.values).collect(), residuals)
}

#[test]
fn whole_steps_agree_with_the_cpu_in_every_storage_type() {
    let f32 = ("f32", Dtype::F32, false, 2e-5);
    let others = [("tf32", Dtype::F32, true, 1e-2), ("f16", Dtype::F16, true, 1e-2), ("bf16", Dtype::Bf16, true, 6e-2)];
    for (method, task) in [("dps", "sr4"), ("dmap:k=2", "motion-blur:size=9")] {
        for name in ["a", "b", "c"] {
            let file = format!("tests/data/adm_{name}.safetensors");
            let prior = Model::open(Path::new(&file)).unwrap().network.prior();
            let is_learned = prior.learn_sigma && method == "dps";
            let variance = if is_learned { Variance::LearnedRange } else { Variance::FixedSmall };
            let settings = Settings::parse(method, &prior).unwrap().steps(2).variance(variance);
            let (expected, traced) = restore(&file, task, &settings, PlanOptions::default(), &Device::cpu());
            // Between them the three networks use every switch, the first one every storage type.
            let others = others.iter().take(if name == "a" { 3 } else { 0 });
            for &(mode, storage, tf32, limit) in std::iter::once(&f32).chain(others) {
                let order = if method == "dps" { 1 } else { 2 };
                let plan = PlanOptions::default().storage(storage).tf32(tf32);
                let (found, residuals) = restore(&file, task, &settings, plan, &emulated(order));
                let error = relative_error(&found, &expected);
                assert!(error <= limit, "{method}, adm_{name}, {mode}: {error:.1e} of {limit:.1e}");
                let error = relative_error(&residuals, &traced);
                assert!(error <= limit, "{method}, adm_{name}, {mode}, residuals: {error:.1e}");
            }
        }
    }
}

/// Settings for small latent models.
fn of_latents(method: &str, steps: usize) -> Settings {
    let prior = Model::open("tests/data/latent_sd1").unwrap().network.prior();
    Settings::parse(method, &prior).unwrap().steps(steps)
}

#[test]
fn whole_steps_of_latent_models_agree_with_the_cpu() {
    let modes = [("f32", Dtype::F32, false, 1e-4), ("f16", Dtype::F16, true, 2e-2), ("bf16", Dtype::Bf16, true, 1e-1)];
    for (method, name, task) in [("dps", "sd1", "sr4"), ("dmap:k=2", "sd2", "motion-blur:size=9")] {
        let folder = format!("tests/data/latent_{name}");
        let settings = of_latents(method, 2);
        let (expected, traced) = restore(&folder, task, &settings, PlanOptions::default(), &Device::cpu());
        for (mode, storage, tf32, limit) in modes {
            let plan = PlanOptions::default().storage(storage).tf32(tf32);
            let (found, residuals) = restore(&folder, task, &settings, plan, &emulated(1));
            for (what, error) in
                [("image", relative_error(&found, &expected)), ("residuals", relative_error(&residuals, &traced))]
            {
                assert!(error <= limit, "{method}, {name}, {mode}, {what}: {error:.1e} of {limit:.1e}");
            }
        }
    }
}

#[test]
fn weights_that_stay_with_the_host_give_the_same_numbers() {
    let settings = of_latents("dps", 2);
    let run = |plan: PlanOptions, device: &Device| restore("tests/data/latent_sd1", "sr4", &settings, plan, device).0;
    let kept = PlanOptions::default().tf32(false);
    let streamed = kept.memory(1_400_000).offload(true);
    for device in [Device::cpu(), emulated(2)] {
        let model = Model::open("tests/data/latent_sd1").unwrap();
        let operator = parse_task("sr4").unwrap();
        let image = Shape::new(2, 16, 16, 3);
        let restorer = Restorer::new(&model, &operator, &settings, image, streamed, &device).unwrap();
        assert!(restorer.plans().iter().all(|p| p.window.is_some()), "the budget needs no window");
        assert_eq!(run(kept, &device), run(streamed, &device), "{}", device.name());
    }
}

/// Methods that need a pixel model.
const OF_PIXELS: [&str; 7] = ["dpir", "diffpir", "ddnm", "ddrm", "pigdm", "red-diff", "daps"];

#[test]
fn every_other_method_agrees_with_the_cpu() {
    for row in METHODS.iter().filter(|r| r.name != "dps" && r.name != "dmap") {
        let inner = match row.name {
            "lgd" => "samples=2",
            "stsl" | "p2l" | "sitcom" => "k=2",
            "resample" => "iterations=2",
            "daps" => "k=2,ode=2",
            _ => "",
        };
        let is_of_pixels = OF_PIXELS.contains(&row.name);
        let model = if is_of_pixels { "tests/data/adm_a.safetensors" } else { "tests/data/latent_sd1" };
        let prior = Model::open(model).unwrap().network.prior();
        let settings = Settings::parse(&format!("{}:{inner}", row.name), &prior).unwrap().steps(2);
        let strict = PlanOptions::default().tf32(false);
        // DDRM divides by singular values, and a blur has small ones that enlarge rounding errors.
        let task = if row.name == "ddrm" { "sr2" } else { "gaussian-blur:size=7" };
        let run = |device: &Device| restore(model, task, &settings, strict, device);
        let ((expected, _), (found, _)) = (run(&Device::cpu()), run(&emulated(5)));
        let error = relative_error(&found, &expected);
        assert!(error <= 1e-4, "{}: {error:.1e}", row.name);
    }
}

/// JPEG and edges are left out: a value at the middle of a step, or two equal neighbours, may go
/// either way. `ops` compares their kernels.
#[test]
fn steps_through_every_kind_of_operator_agree_with_the_cpu() {
    let model = "tests/data/adm_a.safetensors";
    let settings = Settings::parse("dps", &Model::open(model).unwrap().network.prior()).unwrap().steps(1);
    let folder = tempfile::tempdir().unwrap();
    let tensors = [("head.weight", vec![1, 3, 3, 3], &[0.1; 27][..]), ("head.bias", vec![1], &[0.3])];
    write_safetensors_with(&folder.path().join("net.safetensors"), &tensors, &[]).unwrap();
    let json = folder.path().join("net.json");
    std::fs::write(&json, r#"{"weights": "net.safetensors", "layers": [{"conv": "head"}, {"act": "silu"}]}"#).unwrap();
    let network = format!("network:file={}", json.display());
    let single = (PlanOptions::default().tf32(false), 2e-5);
    let half = (PlanOptions::default().storage(Dtype::F16), 1e-2);
    for (task, (plan, limit)) in [
        ("phase-retrieval", single),
        ("colorize", single),
        ("demosaic", single),
        ("compressed-sensing:block=4", single),
        ("anisotropic-blur:size=5,boundary=circular", single),
        ("motion-blur:size=5,boundary=circular+inpaint-random:missing=0.4", single),
        (&network, single),
        (&network, half),
    ] {
        let (expected, traced) = restore(model, task, &settings, PlanOptions::default(), &Device::cpu());
        let (found, residuals) = restore(model, task, &settings, plan, &emulated(2));
        for error in [relative_error(&found, &expected), relative_error(&residuals, &traced)] {
            assert!(error <= limit, "{task}: {error:.1e} of {limit:.1e}");
        }
    }
}

/// The nonlinear blur takes 128x128 pixels at least, so it runs without a sampler.
#[test]
fn nonlinear_blur_and_its_gradient_agree_with_the_cpu() {
    let image = Shape::new(1, 128, 128, 3);
    let operator = parse_task("nonlinear-blur:file=tests/data/nonlinear_blur.pth").unwrap();
    let wave = |by: f32| (0..image.numel()).map(|k| 0.7 * (by * k as f32).sin()).collect::<Vec<f32>>();
    let run = |plan: PlanOptions, device: &Device| {
        let mut g = Graph::new();
        let (x, dy) = (g.input("x", image), g.input("dy", image));
        let kernel = g.input("kernel", operator.state_shape(image).unwrap());
        let y = operator.build(&mut g, x, Some(kernel)).unwrap();
        let dx = backward(&mut g, y, dy, x).unwrap();
        g.output(y);
        g.output(dx);
        let mut e = Executor::new(g, &plan, &Weights::none(), device).unwrap();
        e.set_poison(true);
        e.write(x, &wave(0.013)).unwrap();
        e.write(dy, &wave(0.7)).unwrap();
        e.write(kernel, &operator.draw_state(image, 1).unwrap()).unwrap();
        e.run().unwrap();
        [y, dx].map(|id| e.read(id).unwrap())
    };
    let expected = run(PlanOptions::default(), &Device::cpu());
    let half = PlanOptions::default().storage(Dtype::F16);
    for (plan, limit) in [(PlanOptions::default().tf32(false), 2e-5), (half, 2e-2)] {
        for (found, expected) in run(plan, &emulated(2)).iter().zip(&expected) {
            let error = relative_error(found, expected);
            assert!(error <= limit, "{error:.1e} of {limit:.1e}");
        }
    }
}

#[test]
fn weights_of_closed_models_leave_the_device() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");
    let device = emulated(2);
    let settings = Settings::parse("dps", &Model::open(model).unwrap().network.prior()).unwrap().steps(1);
    let plan = PlanOptions::default().storage(Dtype::Bf16);
    let free: Vec<u64> = (0..3)
        .map(|_| {
            restore(model, "sr2", &settings, plan, &device);
            device.free_bytes().unwrap().unwrap()
        })
        .collect();
    // Those of the last model stay until another one is opened.
    assert_eq!(free[0], free[1]);
    assert_eq!(free[1], free[2]);
}

#[test]
fn weights_share_an_allocation() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");
    let opened = Model::open(model).unwrap();
    let device = emulated(2);
    let before = device.free_bytes().unwrap().unwrap();
    let settings = Settings::parse("dps", &opened.network.prior()).unwrap().steps(1);
    restore(model, "sr2", &settings, PlanOptions::default(), &device);
    let taken = before - device.free_bytes().unwrap().unwrap();
    // Arena, scratch, and the weights that each program was the first to ask for. The device rounds
    // up each allocation to 2 MiB.
    let tensors = dmap::weights::Checkpoint::open(Path::new(model)).unwrap().tensors.len();
    assert!(taken <= 4 * (2 << 20) && tensors > 40, "{taken} bytes for {tensors} tensors");
}

#[test]
fn the_selftest_passes_on_the_emulated_device() {
    use dmap::selftest::{MODES, checks, large_checks};
    let mode = |name| MODES.iter().find(|m| m.name == name).unwrap();
    let device = emulated(3);
    // The ops tests run every case; here the self-test's own comparison is looked at, and whole
    // steps.
    let seen =
        |name: &str| ["linear", "group_norm", "adamw", "normal_noise", "two "].iter().any(|n| name.starts_with(n));
    let small = checks().into_iter().filter(|check| seen(&check.name)).map(|check| (check, "bf16"));
    // Results that are f32 in every mode.
    let single = |name: &str| name.contains("f32 out") || name.contains("weight_vjp");
    let products = checks().into_iter().filter(|check| single(&check.name)).map(|check| (check, "f32"));
    let large = large_checks(16).into_iter().filter(|c| !c.name.contains("adm")).map(|check| (check, "f32"));
    let failed: Vec<_> = small
        .chain(products)
        .chain(large)
        .filter_map(|(check, m)| Some((check.name.clone(), check.run(mode(m), &device, Forced::NONE).err()?)))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Kernels that a device would launch in the self-test.
fn kernels_of_selftest(chip: &Chip, variants: Forced) -> BTreeSet<String> {
    use dmap::selftest::{MODES, checks};
    let mut kernels = BTreeSet::new();
    for mode in MODES {
        for check in checks() {
            let Some(graph) = check.graph().unwrap() else { continue };
            let options = PlanOptions::default().storage(mode.storage).tf32(mode.tf32).variants(variants);
            let plan = Plan::new(&graph, &options).unwrap();
            let nodes = launches_for(&graph, &plan, chip).unwrap();
            kernels.extend(nodes.into_iter().flat_map(|n| n.launches).map(|l| l.kernel));
        }
    }
    kernels
}

#[test]
fn no_kernel_is_left_out_of_the_self_test() {
    let few = kernels_of_selftest(&Chip { multiprocessors: 2, ..Chip::HOPPER }, Forced::NONE);
    let all = kernels_of_selftest(&Chip::HOPPER, Forced::NONE).union(&few).cloned().collect::<BTreeSet<_>>();
    let left_out: Vec<_> = dmap::backend::cuda::emulated::kernels()
        .into_iter()
        .filter(|k| !k.starts_with("fault_") && !all.contains(k))
        .collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

#[test]
fn forced_variants_leave_the_warpgroup_products_out() {
    let forced = Forced::parse("conv=mma,attention=fused", &known()).unwrap();
    let is_wgmma = |k: &String| k.contains("wgmma");
    assert!(kernels_of_selftest(&Chip::HOPPER, Forced::NONE).iter().any(is_wgmma));
    assert!(!kernels_of_selftest(&Chip::HOPPER, forced).iter().any(is_wgmma));
}
