//! The emulated device catches the mistakes that kernels/emulator/faults.cu makes on purpose.

use crate::chip_for;
use dmap::backend::cuda::Driver;
use dmap::backend::cuda::emulated::Emulated;
use dmap::graph::{Dtype, Shape};
use dmap::launch::{Launch, NodeLaunches, Operand, Params, TensorMap};

const COUNT: usize = 128;

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
fn run_fault(kernel: &str, order: u64) -> Result<Vec<f32>, String> {
    let driver = Emulated::new(chip_for(order), order);
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
fn run_box_fault(kernel: &str, order: u64) -> Result<bool, String> {
    const ROWS: usize = 24;
    let driver = Emulated::new(chip_for(order), order);
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
    for order in 0..8 {
        assert_eq!(run_box_fault("fault_none_of_boxes", order), Ok(true), "order {order}");
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
        for order in 0..8 {
            let error = run_box_fault(kernel, order).expect_err(kernel);
            assert!(error.contains(message) && error.contains(kernel), "{kernel}: {error}");
        }
    }
    // Races: some order of threads and copies shows them.
    for kernel in ["fault_boxes_read_too_early", "fault_boxes_overwritten", "fault_boxes_results_reused"] {
        let caught = (0..8).filter(|&order| run_box_fault(kernel, order) != Ok(true)).count();
        assert!(caught >= 2, "{kernel}: caught with {caught} of 8 orders");
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
    for order in 0..4 {
        let reversed: Vec<f32> = (0..COUNT).rev().map(|i| i as f32).collect();
        assert_eq!(run_fault("fault_none", order).unwrap(), reversed);
        let same: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
        assert_eq!(run_fault("fault_none_asynchronous", order).unwrap(), same);
        // Operands that change under a product change the result.
        let product = run_fault("fault_none_of_products", order).unwrap();
        assert!(product.iter().all(|v| v.is_finite()) && product.iter().any(|&v| v != 0.0), "{product:?}");
        assert_ne!(run_fault("fault_products_overwritten", order).unwrap(), product);
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
        // In the other orders copies are done at once.
        let orders: &[u64] = if kernel == "fault_missing_wait" { &[0, 3] } else { &[0, 1, 2, 3] };
        for &order in orders {
            let error = run_fault(kernel, order).expect_err(kernel);
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
