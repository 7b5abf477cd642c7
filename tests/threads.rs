//! Restorers and executors that share one device in several threads: every result is the one of a
//! thread alone.

use dmap::Result;
use dmap::backend::Device;
#[cfg(feature = "emulate")]
use dmap::backend::cuda::emulated::{Emulated, EmulatedChip};
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape, TensorId};
use dmap::model::Model;
use dmap::operator::parse_task;
use dmap::ops::add::Scale;
use dmap::sampler::{Item, Measurement, Noise, Restorer, Settings};
use dmap::weights::Weights;
use std::ops::ControlFlow;

/// Restores a small picture by one of several jobs that need arenas of different sizes, in so many
/// steps.
fn restore(job: usize, steps: usize, device: &Device) -> Vec<f32> {
    let (method, side) = [("dps", 16), ("dps", 8), ("dmap:k=1", 32), ("dmap:k=1", 24)][job % 4];
    let model = Model::open("tests/data/adm_b.safetensors").unwrap();
    let operator = parse_task("gaussian-blur:size=5,sigma=1").unwrap();
    let image = Shape::new(1, side, side, 3);
    let x: Vec<f32> = (0..image.item()).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.8).collect();
    let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &x, Noise::Gaussian(0.05), 1).unwrap();
    let settings = Settings::parse(method, &model.network.prior()).unwrap().steps(steps);
    let mut restorer = Restorer::new(&model, &operator, &settings, image, PlanOptions::default(), device).unwrap();
    let label = model.network.prior().classes.map(|_| 1);
    let item = Item::new(measurement, job as u64).label(label);
    let restored = restorer.restore(&[item], |now| {
        // A caller may look at the images while others run.
        assert_eq!(now.pictures().unwrap().len(), 1);
        ControlFlow::Continue(())
    });
    restored.unwrap().remove(0).picture.values
}

/// All jobs at once on clones of one device, `rounds` times.
fn share(device: &Device, jobs: usize, steps: usize, rounds: usize) {
    let alone: Vec<Vec<f32>> = (0..jobs).map(|job| restore(job, steps, device)).collect();
    std::thread::scope(|scope| {
        for (job, expected) in alone.iter().enumerate() {
            let device = device.clone();
            scope.spawn(move || {
                for round in 0..rounds {
                    assert!(
                        restore(job, steps, &device) == *expected,
                        "job {job}, round {round}: other bits than alone"
                    );
                }
            });
        }
    });
}

#[test]
fn restorers_that_share_the_cpu_give_the_bits_of_one_alone() {
    share(&Device::cpu(), 4, 3, 6);
}

#[cfg(feature = "emulate")]
#[test]
fn restorers_that_share_an_emulated_device_give_the_bits_of_one_alone() {
    share(&Device::emulated(Emulated::new(EmulatedChip::Ada, 3)), 2, 2, 1);
}

#[cfg(feature = "emulate")]
#[test]
fn restorers_that_share_a_cuda_device_give_the_bits_of_one_alone() {
    // SAFETY: a library of this build. Whoever asks for libcuda.so later gets the one that is
    // loaded.
    let stand_in = std::path::Path::new(env!("DMAP_STAND_IN")).join("libcuda.so");
    std::mem::forget(unsafe { libloading::Library::new(stand_in) }.unwrap());
    share(&Device::cuda(0).unwrap(), 2, 2, 1);
}

/// y = 2 x over so many values.
fn doubled(device: &Device, count: usize) -> (Executor, TensorId, TensorId) {
    let mut g = Graph::new();
    let x = g.input("x", Shape::new(1, 1, count, 1));
    let half = g.one(Scale { scale: 4.0 }, "half", &[x]).unwrap();
    let y = g.one(Scale { scale: 0.5 }, "y", &[half]).unwrap();
    g.output(y);
    (Executor::new(g, &PlanOptions::default(), &Weights::none(), device).unwrap(), x, y)
}

fn an_output_is_read_before_another_program_runs(device: &Device) -> Result<()> {
    let (mut first, x, y) = doubled(device, 8);
    let (mut second, other_x, other_y) = doubled(device, 8);
    first.write(x, &[1.0; 8])?;
    second.write(other_x, &[5.0; 8])?;
    assert!(first.read(y).is_err(), "nothing has run");
    first.run()?;
    assert_eq!(first.read(y)?, [2.0; 8]);
    second.run()?;
    let error = first.read(y).unwrap_err().to_string();
    assert!(error.contains("after another program has run on the same device"), "{error}");
    assert!(first.copy_to(y, &mut second, other_x).is_err() && first.carry(y, x).is_err());
    assert_eq!(second.read(other_y)?, [10.0; 8]);
    // A larger program moves the arena.
    let _third = doubled(device, 1 << 20);
    assert!(second.read(other_y).is_err());
    second.run()?;
    assert_eq!(second.read(other_y)?, [10.0; 8]);
    Ok(())
}

#[test]
fn an_output_that_another_program_wrote_over_is_an_error_and_no_wrong_number() {
    an_output_is_read_before_another_program_runs(&Device::cpu()).unwrap();
    #[cfg(feature = "emulate")]
    an_output_is_read_before_another_program_runs(&Device::emulated(Emulated::new(EmulatedChip::Ada, 1))).unwrap();
}
