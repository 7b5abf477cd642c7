//! The code that talks to the real driver, over the stand-in for libcuda
//! (kernels/emulator/libcuda.cpp): it runs the emulated kernels as late as a GPU may and ends the
//! process where the driver's manual forbids a call.
#![cfg(feature = "emulate")]

use dmap::backend::Device;
use dmap::executor::Executor;
use dmap::graph::{Graph, PlanOptions, Shape};
use dmap::ops::add::Scale;
use dmap::weights::Weights;
use std::path::Path;
use std::process::{Command, Output};

/// `dmap` where the loader finds the stand-in first, on a device as `environment` describes it.
fn dmap(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmap"));
    command.args(arguments).envs(environment.iter().copied()).env("LD_LIBRARY_PATH", env!("DMAP_STAND_IN"));
    command.output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn passes(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let out = dmap(arguments, environment);
    assert!(out.status.success(), "{arguments:?} {environment:?}: {}", text(&out));
    text(&out)
}

/// Restores two small pictures in one batch and gives the bytes of the second one.
fn restore(folder: &Path, device: &str, more: &[&str], environment: &[(&str, &str)]) -> Vec<u8> {
    let photos = ["a.png", "b.png"].map(|name| {
        let path = folder.join(name);
        let picture = dmap::image::Picture { width: 16, height: 16, values: vec![0.25; 16 * 16 * 3] };
        picture.write_png(&path).unwrap();
        path.display().to_string()
    });
    let out = folder.join("out").display().to_string();
    let fixed = format!("--task sr4 --method dmap:k=1 --batch 2 --overwrite --out {out} --device {device}");
    let arguments = [&["restore", &photos[0], &photos[1]], &fixed.split(' ').collect::<Vec<_>>()[..], more].concat();
    let said = passes(&arguments, environment);
    assert_eq!(device != "emulated", said.contains("Stand-in GPU"), "{said}");
    std::fs::read(folder.join("out/b/restored.png")).unwrap()
}

#[test]
fn the_selftest_passes_through_the_drivers_interface() {
    let said = passes(&["selftest", "--device", "cuda:0", "--precision", "bf16"], &[]);
    assert!(said.contains("two dmap levels"), "{said}");
}

#[test]
fn a_restoration_has_the_same_bits_as_on_the_emulated_device() {
    let folder = tempfile::tempdir().unwrap();
    let model = ["--model", "tests/data/adm_b.safetensors"];
    // A chip with a CUBIN of its own, one that runs that of an earlier chip, one that takes the
    // PTX.
    for (precision, steps, chips) in [("f16", "2", &["9.0"][..]), ("f32", "1", &["8.9", "11.0"])] {
        let more = [&model[..], &["--precision", precision, "--steps", steps]].concat();
        let expected = restore(folder.path(), "emulated", &more, &[]);
        for chip in chips {
            let found = restore(folder.path(), "auto", &more, &[("STAND_IN_CAPABILITY", chip)]);
            assert_eq!(found, expected, "{precision}, {chip}");
        }
    }
}

#[test]
fn weights_left_with_the_host_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let model = ["--model", "tests/data/latent_sd2", "--steps", "2"];
    let plain = restore(folder.path(), "cuda:0", &model, &[]);
    let budget = [&model[..], &["--memory", "1500KiB", "--offload"]].concat();
    assert_eq!(restore(folder.path(), "cuda:0", &budget, &[]), plain);
}

#[test]
fn every_node_is_timed() {
    // SAFETY: a library of this build. Whoever asks for libcuda.so later gets the one that is
    // loaded.
    let library = unsafe { libloading::Library::new(Path::new(env!("DMAP_STAND_IN")).join("libcuda.so")) };
    std::mem::forget(library.unwrap());
    let mut g = Graph::new();
    let x = g.input("x", Shape::new(1, 4, 4, 8));
    let doubled = g.one(Scale { scale: 2.0 }, "doubled", &[x]).unwrap();
    let y = g.one(Scale { scale: 3.0 }, "y", &[doubled]).unwrap();
    g.output(y);
    let device = Device::cuda(0).unwrap();
    let mut executor = Executor::new(g, &PlanOptions::default(), &Weights::from_values(Vec::new()), &device).unwrap();
    let values: Vec<f32> = (0..128).map(|i| i as f32).collect();
    executor.write(x, &values).unwrap();
    let times = executor.time_nodes().unwrap();
    executor.run().unwrap();
    assert!(times.len() == 2 && times.iter().all(|t| !t.is_zero()), "{times:?}");
    let expected: Vec<f32> = values.iter().map(|v| 6.0 * v).collect();
    assert_eq!(executor.read(y).unwrap(), expected);
}

#[test]
fn a_device_that_can_not_be_used_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (photo, out) = (folder.path().join("p.png"), folder.path().join("o").display().to_string());
    dmap::image::Picture { width: 64, height: 64, values: vec![0.25; 64 * 64 * 3] }.write_png(&photo).unwrap();
    let photo = photo.display().to_string();
    for (device, environment, words) in [
        ("cuda:0", ("STAND_IN_MEMORY_MIB", "20"), "MiB free of 20 MiB"),
        ("cuda:0", ("STAND_IN_DRIVER", "11080"), "speaks version 11.8, dmap's kernels need"),
        ("cuda:0", ("STAND_IN_CAPABILITY", "7.5"), "compute capability 7.5, the kernels need 8.0"),
        ("cuda:0", ("STAND_IN_DEVICES", "0"), "no CUDA-capable device"),
        ("cuda:3", ("STAND_IN_DEVICES", "2"), "no CUDA device 3: this machine has 2"),
    ] {
        let arguments =
            ["restore", &photo, "--task", "sr4", "--steps", "2", "--overwrite", "--out", &out, "--device", device];
        let refused = dmap(&arguments, &[environment]);
        let said = text(&refused);
        let code = if environment.0 == "STAND_IN_MEMORY_MIB" { 1 } else { 2 };
        assert_eq!(refused.status.code(), Some(code), "{environment:?}: {said}");
        assert!(said.contains(words), "{environment:?}: {said}");
        assert_eq!(said.matches("dmap: ").count(), 1, "{said}");
        // With `auto` the CPU takes over where there is no usable device at all.
        if environment.0 != "STAND_IN_MEMORY_MIB" && device == "cuda:0" {
            let auto = [&arguments[..9], &["--device", "auto"]].concat();
            let said = passes(&auto, &[environment]);
            let reason = said.lines().find(|l| l.starts_with("on cpu")).unwrap_or_default();
            assert!(reason.contains("not CUDA: ") && reason.contains(words), "{said}");
            assert!(!reason.contains("--device cpu"), "{reason}");
        }
    }
}

#[test]
fn images_that_the_driver_refuses_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--model", "tests/data/adm_b.safetensors", "--precision", "f32", "--steps", "1"];
    let expected = restore(folder.path(), "emulated", &more, &[]);
    let refuses = |kinds| ("STAND_IN_REFUSES", kinds);
    assert_eq!(restore(folder.path(), "cuda:0", &more, &[refuses("cubin")]), expected, "PTX in place of CUBINs");
    let [photo, out, cache] = ["a.png", "other", "cache"].map(|name| folder.path().join(name).display().to_string());
    let arguments = ["restore", &photo, "--task", "sr4", "--steps", "1", "--device", "cuda:0", "--out", &out];
    let nowhere = [refuses("cubin,ptx"), ("DMAP_NVRTC", "/nowhere/libnvrtc.so"), ("XDG_CACHE_HOME", &cache)];
    let refused = dmap(&arguments, &nowhere);
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for words in
        ["the driver, for CUDA 13.0, takes none of the images that NVRTC", "sm_90", "compute_80", "NVRTC was not found"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn the_self_test_goes_on_after_the_device_failed() {
    let scale = ["selftest", "--device", "cuda:0", "--precision", "bf16"];
    let out = dmap(&scale, &[("STAND_IN_FAILS_LAUNCH", "clamp")]);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    // The cases of the op and both whole steps; each ends a process, and the next one goes on.
    let checks = dmap::selftest::checks();
    let failing = checks.iter().filter(|c| c.name.starts_with("clamp") || c.name.starts_with("two ")).count();
    assert_eq!(said.matches("FAILED ").count(), failing, "{said}");
    assert_eq!(said.matches("launching clamp: see the manual (CUDA_ERROR)").count(), failing, "{said}");
    let counts = said.lines().last().unwrap();
    assert_eq!(counts, format!("{} of {} checks passed", checks.len() - failing, checks.len()), "{said}");
}

#[test]
fn kernels_compile_on_demand_and_from_another_folder() {
    if dmap::backend::cuda::images::NVRTC_VERSION.is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache").display().to_string();
    let source = [("DMAP_IMAGES", "source"), ("XDG_CACHE_HOME", &cache), ("STAND_IN_REFUSES", "ptx")];
    let only = ["selftest", "--device", "cuda:0", "--precision", "bf16", "--only", "scale (2, 3"];
    assert!(passes(&only, &source).contains("1 of 1 checks passed"));
    let cached = || std::fs::read_dir(folder.path().join("cache/dmap")).unwrap().map(|f| f.unwrap().file_name());
    let names: Vec<String> = cached().map(|n| n.to_string_lossy().into_owned()).collect();
    assert!(!names.is_empty() && names.iter().all(|n| n.contains(".sm_90a.")), "{names:?}");

    let kernels = folder.path().join("kernels");
    std::fs::create_dir_all(kernels.join("include")).unwrap();
    for part in [".", "include"] {
        for file in std::fs::read_dir(Path::new("kernels").join(part)).unwrap().map(|f| f.unwrap()) {
            if file.path().is_file() {
                std::fs::copy(file.path(), kernels.join(part).join(file.file_name())).unwrap();
            }
        }
    }
    let path = kernels.display().to_string();
    let own = [("DMAP_KERNELS", &path[..]), ("XDG_CACHE_HOME", &cache)];
    assert!(passes(&only, &own).contains("1 of 1 checks passed"));
    std::fs::write(kernels.join("add.cu"), "no kernel").unwrap();
    std::fs::write(kernels.join("scale.cu"), "no kernel").unwrap();
    let said = text(&dmap(&only, &own));
    assert!(said.contains("does not compile for sm_90a") && said.contains("error"), "{said}");
}

#[test]
fn the_number_of_multiprocessors_can_be_set() {
    let only = ["selftest", "--device", "cuda:0", "--precision", "bf16", "--only", "conv 1x1/1 (2"];
    assert!(passes(&only, &[("DMAP_MULTIPROCESSORS", "132")]).contains("4 of 4 checks passed"));
    for wrong in ["0", "many", "-1"] {
        let out = dmap(&only, &[("DMAP_MULTIPROCESSORS", wrong)]);
        let said = text(&out);
        assert!(out.status.code() == Some(2) && said.contains("DMAP_MULTIPROCESSORS is"), "{said}");
    }
    let said = text(&dmap(&only, &[("DMAP_IMAGES", "sauce")]));
    assert!(said.contains("DMAP_IMAGES is sauce; expected source"), "{said}");
    let said = text(&dmap(&["selftest", "--device", "cpu", "--only", "convolution"], &[]));
    assert!(said.contains("no check is called convolution") && said.contains("layer_norm"), "{said}");
}
