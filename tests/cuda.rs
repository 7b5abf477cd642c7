//! The CUDA backend on the emulated device: the emulator catches planted mistakes, whole steps
//! agree with the CPU, and no kernel is left out.
#![cfg(feature = "emulate")]

use dmap::backend::Device;
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::backend::cuda::{Driver, launches_for};
use dmap::compare::relative_error;
use dmap::graph::{Dtype, Plan, PlanOptions, Shape};
use dmap::launch::{Chip, Forced, Launch, NodeLaunches, Operand, Params, TensorMap};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::ops::variant_tables::known;
use dmap::sampler::{Item, METHODS, Measurement, Measurer, Restorer, Settings, Variance};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

const COUNT: usize = 128;

/// The chip of a test that varies it with the order: an odd order has the shared memory of consumer
/// chips.
fn chip_for(order: u64) -> EmulatedChip {
    if order % 2 == 1 { EmulatedChip::Ada } else { EmulatedChip::Hopper }
}

fn emulated(order: u64) -> Device {
    Device::emulated(Emulated::new(chip_for(order), order))
}

/// Runs a launch as a node that writes y.
fn run_alone(driver: &Emulated, launch: Launch, y: Operand) -> Result<(), String> {
    driver.check(&launch).map_err(|e| e.to_string())?;
    let (node, outputs) = (launch.kernel.clone(), vec![(y, false)]);
    let node = NodeLaunches {
        node,
        copies: Vec::new(),
        outputs,
        launches: vec![launch],
        choices: Vec::new(),
        scratch_bytes: 0,
    };
    driver.instantiate(vec![node]).unwrap().run().map_err(|e| e.to_string())
}

/// Runs one kernel of kernels/emulator/faults.cu as a node and gives its output, or what the device
/// said.
fn run_fault(kernel: &str, seed: u64) -> Result<Vec<f32>, String> {
    let driver = Emulated::new(chip_for(seed), seed);
    let bytes = 4 * COUNT as u64;
    let place = |address| Operand { address, bytes, dtype: Dtype::F32, shape: Shape::vector(COUNT) };
    let (x, y) = (place(driver.allocate(bytes).unwrap()), place(driver.allocate(bytes).unwrap()));
    let values: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
    driver.upload(x.address, bytemuck::cast_slice(&values)).unwrap();
    let launch = Launch {
        file: "emulator/faults".into(),
        kernel: kernel.into(),
        grid: [1; 3],
        block: COUNT as u32,
        shared: if kernel.contains("products") { 1024 } else { 4 * COUNT as u32 },
        params: Params::new().write(y).read(x).i32(COUNT).i32(0),
    };
    run_alone(&driver, launch, y)?;
    let mut out = vec![0f32; COUNT];
    driver.download(y.address, bytemuck::cast_slice_mut(&mut out)).unwrap();
    Ok(out)
}

/// Runs one of its kernels that copy boxes: whether y, 24 rows of 64 values, is x then, or what the
/// device said.
fn run_box_fault(kernel: &str, seed: u64) -> Result<bool, String> {
    const ROWS: usize = 24;
    let driver = Emulated::new(chip_for(seed), seed);
    let bytes = (2 * 64 * ROWS) as u64;
    let place = |address| Operand { address, bytes, dtype: Dtype::Bf16, shape: Shape::rows(ROWS, 64) };
    let (x, y) = (place(driver.allocate(bytes).unwrap()), place(driver.allocate(bytes).unwrap()));
    let values: Vec<u16> = (0..64 * ROWS as u16).collect();
    driver.upload(x.address, bytemuck::cast_slice(&values)).unwrap();
    let map = |operand| TensorMap {
        operand,
        first: 0,
        extents: [64, ROWS, 1, 1, 1],
        strides: [64, 64 * ROWS, 64 * ROWS, 64 * ROWS],
        extent_of_box: [64, 8, 1, 1, 1],
    };
    let launch = Launch {
        file: "emulator/faults".into(),
        kernel: kernel.into(),
        grid: [1; 3],
        block: 96,
        shared: 3 * 1024 + 48,
        params: Params::new().map(Some(map(x))).map_out(Some(map(y))),
    };
    run_alone(&driver, launch, y)?;
    let mut out = vec![0u16; values.len()];
    driver.download(y.address, bytemuck::cast_slice_mut(&mut out)).unwrap();
    Ok(out == values)
}

#[test]
fn mistakes_with_boxes_are_caught() {
    for seed in 0..8 {
        assert_eq!(run_box_fault("fault_none_of_boxes", seed), Ok(true), "seed {seed}");
    }
    for (kernel, message) in [
        ("fault_boxes_expect_less", "more bytes come to a barrier than it expects"),
        ("fault_boxes_expect_more", "128 bytes to come"),
        ("fault_boxes_count_two", "1 arrivals and 0 bytes to come"),
        ("fault_boxes_not_fenced", "not fenced"),
        ("fault_boxes_stores_left", "stores of boxes that nobody waited for"),
        ("fault_boxes_init_not_fenced", "initialisation is not fenced"),
        ("fault_boxes_misaligned", "not aligned to 128 bytes"),
    ] {
        for seed in 0..8 {
            let error = run_box_fault(kernel, seed).expect_err(kernel);
            assert!(error.contains(message) && error.contains(kernel), "{kernel}: {error}");
        }
    }
    // Races: some order of threads and copies shows them.
    for kernel in ["fault_boxes_read_too_early", "fault_boxes_overwritten", "fault_boxes_results_reused"] {
        let caught = (0..8).filter(|&seed| run_box_fault(kernel, seed) != Ok(true)).count();
        assert!(caught >= 2, "{kernel}: caught with {caught} of 8 seeds");
    }
}

#[test]
fn a_map_that_the_driver_would_refuse_or_that_is_too_long_is_caught() {
    let driver = Emulated::new(chip_for(0), 0);
    let bytes = 2 * 64 * 8;
    let operand =
        Operand { address: driver.allocate(bytes).unwrap(), bytes, dtype: Dtype::Bf16, shape: Shape::rows(8, 64) };
    let run = |change: &dyn Fn(&mut TensorMap)| {
        let mut map = TensorMap {
            operand,
            first: 0,
            extents: [64, 8, 1, 1, 1],
            strides: [64, 512, 512, 512],
            extent_of_box: [64, 8, 1, 1, 1],
        };
        change(&mut map);
        let params = Params::new().map_out(Some(map)).map_out(Some(map));
        let kernel = "fault_none_of_boxes".to_string();
        let launch = Launch { file: String::new(), kernel, grid: [1; 3], block: 96, shared: 3 * 1024 + 48, params };
        let node = NodeLaunches {
            node: "map".into(),
            copies: Vec::new(),
            outputs: Vec::new(),
            launches: vec![launch],
            choices: Vec::new(),
            scratch_bytes: 0,
        };
        driver.instantiate(vec![node]).unwrap().run().unwrap_err().to_string()
    };
    assert!(run(&|m| m.extents[1] = 9).contains("reaches past a tensor"));
    assert!(run(&|m| m.first = 4).contains("reaches past a tensor"));
    // A row of 63 values; a box of half a row; one that is too wide.
    let refused = "the driver would refuse";
    assert!(run(&|m| (m.extents, m.strides[0]) = ([63, 8, 1, 1, 1], 63)).contains(refused));
    assert!(run(&|m| m.extent_of_box[0] = 32).contains(refused));
    assert!(run(&|m| m.extent_of_box[1] = 257).contains(refused));
}

#[test]
fn a_kernel_without_a_mistake_passes() {
    for seed in 0..4 {
        let reversed: Vec<f32> = (0..COUNT).rev().map(|i| i as f32).collect();
        assert_eq!(run_fault("fault_none", seed).unwrap(), reversed);
        let same: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
        assert_eq!(run_fault("fault_none_asynchronous", seed).unwrap(), same);
        // Operands that change under a product change the result.
        let product = run_fault("fault_none_of_products", seed).unwrap();
        assert!(product.iter().all(|v| v.is_finite()) && product.iter().any(|&v| v != 0.0), "{product:?}");
        assert_ne!(run_fault("fault_products_overwritten", seed).unwrap(), product);
    }
}

#[test]
fn every_planted_mistake_is_caught() {
    for (kernel, message) in [
        ("fault_write_past_the_end", "a write past a tensor"),
        ("fault_misaligned", "not aligned"),
        ("fault_unwritten", "element 5 is not written"),
        ("fault_shared_past_the_end", "past the shared memory"),
        ("fault_barrier_not_reached_by_all", "barrier"),
        ("fault_write_to_an_input", "only read"),
        // The poison of shared memory comes through as it is: the output still looks unwritten.
        ("fault_missing_barrier", "not written"),
        ("fault_missing_wait", "not written"),
        ("fault_products_of_copies_not_fenced", "copies are not fenced"),
        ("fault_products_not_fenced", "without fence_products"),
        ("fault_products_read_too_early", "not written"),
    ] {
        // With the other seeds copies are done at once.
        let seeds: &[u64] = if kernel == "fault_missing_wait" { &[0, 3] } else { &[0, 1, 2, 3] };
        for &seed in seeds {
            let error = run_fault(kernel, seed).expect_err(kernel);
            assert!(error.contains(message) && error.contains(kernel), "{kernel}: {error}");
        }
    }
    // What lies past a tensor is NaN, whatever it is multiplied with, and makes the element look
    // unwritten.
    let error = run_fault("fault_read_past_the_end", 0).unwrap_err();
    assert!(error.contains("element 127"), "{error}");
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_refused() {
    let driver = Emulated::new(chip_for(0), 0);
    let launch = |kernel: &str, shared: u32, params: Params| Launch {
        file: String::new(),
        kernel: kernel.into(),
        grid: [1; 3],
        block: 32,
        shared,
        params,
    };
    let error = |l: &Launch| driver.check(l).unwrap_err().to_string();
    assert!(error(&launch("no_such_kernel", 0, Params::new())).contains("no such kernel"));
    assert!(error(&launch("fault_none", 0, Params::new().i64(0))).contains("24 bytes"));
    let room = Params::new().i64(0).i64(0).i64(0);
    assert!(error(&launch("fault_none", 1 << 20, room)).contains("shared memory"));
}

/// Two levels of `method` on a small network with random weights, 16x16.
fn restore(model: &str, task: &str, settings: &Settings, plan: PlanOptions, device: &Device) -> (Vec<f32>, Vec<f32>) {
    let model = Model::open(Path::new(model)).unwrap();
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
                let seed = if method == "dps" { 1 } else { 2 };
                let plan = PlanOptions::default().storage(storage).tf32(tf32);
                let (found, residuals) = restore(&file, task, &settings, plan, &emulated(seed));
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
        let settings = Settings::parse(&format!("{}:{inner}", row.name), &prior).unwrap().steps(3);
        let strict = PlanOptions::default().tf32(false);
        // DDRM divides by singular values, and a blur has small ones that enlarge rounding errors.
        let task = if row.name == "ddrm" { "sr2" } else { "gaussian-blur:size=7" };
        let run = |device: &Device| restore(model, task, &settings, strict, device);
        let ((expected, _), (found, _)) = (run(&Device::cpu()), run(&emulated(5)));
        let error = relative_error(&found, &expected);
        assert!(error <= 1e-4, "{}: {error:.1e}", row.name);
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
    let large = large_checks(16).into_iter().filter(|c| !c.name.contains("adm")).map(|check| (check, "f32"));
    let failed: Vec<_> = small
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
