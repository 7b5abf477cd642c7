//! Runs of `restore` and what lies around it: results on disk, second runs, bad input, exit codes.

use crate::folder::{Folder, dmap, json, text};
use dmap::image::Photo;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs what should fail: exit code 2, and one sentence with `words`.
fn refused(arguments: &[&str], words: &str) {
    let out = dmap(arguments);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn restore_writes_everything_once_and_the_same_on_every_run() {
    let f = Folder::new();
    let photo = f.picture("photo.png", 24, 16);
    let run = |out: &str, more: &[&str]| {
        let mut a = vec!["restore", &photo, "--task", "sr2", "--steps", "3", "--out", out];
        a.extend(more);
        let o = dmap(&a);
        assert!(o.status.success(), "{}", text(&o));
        text(&o)
    };
    let out = f.string("out");
    run(&out, &["--save-every", "2"]);
    let folder = f.path("out/photo");
    for name in ["measurement.png", "measurement.safetensors", "restored.png", "comparison.png", "step-0002.png"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    assert_eq!(Photo::read(&folder.join("measurement.png")).unwrap().picture.width, 12);
    let result = json(&folder.join("result.json"));
    for key in [
        "task",
        "method",
        "model",
        "seed",
        "steps",
        "size",
        "psnr",
        "psnr_baseline",
        "ssim",
        "residual",
        "seconds",
        "seconds_per_step",
        "arena_bytes",
        "weight_bytes",
        "device",
    ] {
        assert!(!result[key].is_null(), "{key}");
    }
    assert_eq!(result["size"], serde_json::json!([24, 16]));
    assert_eq!(result["baseline"], "bicubic");
    assert!(run(&out, &[]).contains("finished before"));
    let other = f.string("other");
    run(&other, &["--batch", "4", "--json"]);
    let read = |p: &str| std::fs::read(f.path(p)).unwrap();
    assert_eq!(read("out/photo/restored.png"), read("other/photo/restored.png"));
    run(&other, &["--seed", "1", "--overwrite"]);
    assert_ne!(read("out/photo/restored.png"), read("other/photo/restored.png"));
    let leftover = walk(f.0.path()).into_iter().find(|p| p.to_string_lossy().contains("partial"));
    assert_eq!(leftover, None);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[test]
fn odd_sizes_are_restored_on_a_canvas_and_cropped_back() {
    let f = Folder::new();
    let photo = f.picture("odd.png", 21, 13);
    for task in ["inpaint-random", "gaussian-blur:size=9,sigma=1", "motion-blur:size=9", "sr4"] {
        let out = f.string(task.split(':').next().unwrap());
        let o = dmap(&["restore", &photo, "--task", task, "--steps", "2", "--out", &out]);
        assert!(o.status.success() && text(&o).contains("canvas of 24x16"), "{}", text(&o));
        let restored = Photo::read(&Path::new(&out).join("odd/restored.png")).unwrap().picture;
        assert_eq!((restored.width, restored.height), (21, 13), "{task}");
    }
}

#[test]
fn a_saved_measurement_restores_to_the_same_image() {
    let f = Folder::new();
    let photo = f.picture("p.png", 16, 16);
    let flags = ["--task", "inpaint-random", "--steps", "3", "--seed", "4"];
    let run = |input: &str, out: &str, more: &[&str]| {
        let o = dmap(&[&["restore", input, "--out", out], &flags[..], more].concat());
        assert!(o.status.success(), "{}", text(&o));
    };
    run(&photo, &f.string("a"), &[]);
    run(&f.string("a/p/measurement.safetensors"), &f.string("b"), &["--measurement"]);
    let read = |p: &str| std::fs::read(f.path(p)).unwrap();
    assert_eq!(read("a/p/restored.png"), read("b/measurement/restored.png"));
    assert!(json(&f.path("b/measurement/result.json"))["psnr"].is_null());
}

#[test]
fn several_samples_and_their_mean_are_written() {
    let f = Folder::new();
    let photo = f.picture("p.png", 16, 16);
    let o = dmap(&[
        "restore",
        &photo,
        "--task",
        "sr4",
        "--steps",
        "2",
        "--samples",
        "3",
        "--batch",
        "2",
        "--out",
        &f.string("o"),
    ]);
    assert!(o.status.success(), "{}", text(&o));
    let read = |name: &str| Photo::read(&f.path("o/p").join(name)).unwrap().picture.values;
    let samples = ["restored-1.png", "restored-2.png", "restored-3.png"].map(read);
    let (mean, deviation) = (read("restored-mean.png"), read("restored-standard-deviation.png"));
    for i in 0..mean.len() {
        let average = samples.iter().map(|s| s[i]).sum::<f32>() / 3.0;
        let square = samples.iter().map(|s| (s[i] - average).powi(2)).sum::<f32>() / 2.0;
        // All of them were rounded to 8 bits; the standard deviation is shown four times as large.
        assert!((mean[i] - average).abs() < 0.02, "mean {i}");
        assert!((deviation[i] - (4.0 * square.sqrt() - 1.0).min(1.0)).abs() < 0.05, "deviation {i}");
    }
    assert!(deviation.iter().any(|&d| d > -0.9), "the samples differ");
    assert_eq!(json(&f.path("o/p/result.json"))["psnr_samples"].as_array().unwrap().len(), 3);
    // Another run leaves nothing of this one.
    let o = dmap(&["restore", &photo, "--task", "sr4", "--steps", "2", "--overwrite", "--out", &f.string("o")]);
    assert!(o.status.success() && !f.path("o/p/restored-1.png").exists(), "{}", text(&o));
}

#[test]
fn one_bad_input_does_not_stop_the_others() {
    let f = Folder::new();
    std::fs::create_dir(f.path("in")).unwrap();
    f.picture("in/a.png", 16, 16);
    std::fs::write(f.path("in/b.png"), b"this is not a picture").unwrap();
    std::fs::write(f.path("in/c.png"), b"").unwrap();
    f.picture("in/d.png", 16, 16);
    let o = dmap(&["restore", &f.string("in"), "--task", "denoise", "--steps", "2", "--out", &f.string("o")]);
    let said = text(&o);
    assert_eq!(o.status.code(), Some(2), "{said}");
    assert!(said.contains("b.png: not a readable picture") && said.contains("c.png: the file is empty"), "{said}");
    assert!(said.contains("2 of 4 inputs could not be restored, 2 were"), "{said}");
    assert!(f.path("o/a/result.json").exists() && f.path("o/d/result.json").exists());
    assert!(!f.path("o/b").exists());
}

#[test]
fn pictures_of_every_kind_are_converted_with_a_word() {
    use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};
    let f = Folder::new();
    let kinds: [(&str, DynamicImage, &str); 4] = [
        ("grey.png", DynamicImage::ImageLuma8(ImageBuffer::from_pixel(16, 16, Luma([90]))), ""),
        (
            "deep.png",
            DynamicImage::ImageRgb16(ImageBuffer::from_pixel(16, 16, Rgb([9000, 500, 60_000]))),
            "16 bits to 8",
        ),
        ("clear.png", DynamicImage::ImageRgba8(ImageBuffer::from_pixel(16, 16, Rgba([0, 0, 0, 0]))), "over white"),
        ("both.png", DynamicImage::ImageLumaA16(ImageBuffer::from_pixel(16, 16, LumaA([7, 65_535]))), "16 bits to 8"),
    ];
    for (name, picture, words) in kinds {
        picture.save(f.path(name)).unwrap();
        let Photo { picture, grey, note, .. } = Photo::read(&f.path(name)).unwrap();
        assert!(note.unwrap_or_default().contains(words), "{name}");
        assert_eq!(grey, ["grey.png", "both.png"].contains(&name), "{name}");
        assert_eq!(picture.values.len(), 16 * 16 * 3);
        if name == "clear.png" {
            assert!(picture.values.iter().all(|&v| v == 1.0), "nothing of a transparent picture is seen, only white");
        }
    }
    // A picture with a header that promises 40000 x 40000 pixels is refused before anything is
    // allocated.
    let mut huge = std::fs::read(f.path("grey.png")).unwrap();
    huge[16..24].copy_from_slice(&[0, 0, 0x9c, 0x40, 0, 0, 0x9c, 0x40]);
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(f.path("huge.png"), huge).unwrap();
    let error = Photo::read(&f.path("huge.png")).unwrap_err().to_string();
    assert!(error.contains("40000x40000"), "{error}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn wrong_flags_are_refused_with_the_nearest_right_one() {
    let f = Folder::new();
    let photo = f.picture("p.png", 16, 16);
    let out = f.string("o");
    let base = ["restore", photo.as_str(), "--out", out.as_str()];
    let with = |more: &[&str], words: &str| refused(&[&base[..], more].concat(), words);
    with(&["--task", "gausian-blur"], "did you mean gaussian-blur");
    with(&["--task", "sr"], "sr4");
    with(&["--task", "sr1"], "factor from 2");
    with(&["--task", "inpaint"], "did you mean inpaint-");
    with(&["--task", "gaussian-blur:sigma=-1"], "sigma is -1");
    with(&["--task", "gaussian-blur:size=10"], "odd");
    with(&["--task", "gaussian-blur:wobble=1"], "unknown option wobble");
    with(&["--task", "sr4", "--method", "dmp"], "did you mean dmap");
    with(&["--task", "sr4", "--method", "dpir", "--estimate", "sample"], "dpir gives one best image and no samples");
    with(&["--task", "sr4", "--method", "dpir", "--samples", "2"], "--samples 2: dpir gives one best image");
    with(&["--task", "sr4", "--method", "dpir:from=0.01"], "sigmas go from 0.01 to 0.05; they have to fall");
    with(&["--task", "sr4", "--method", "dmap:inner=3"], "unknown option inner (options: k=5,step=polyak:0.4");
    with(&["--task", "sr4", "--method", "dps:step=0.3"], "expected polyak:SHARE, published:ZETA or adam:RATE");
    with(&["--task", "sr4", "--method", "dps:step=adam:0.03:1:0.5"], "B1 and B2 below 1");
    with(&["--task", "motion-blur:size=9", "--method", "ddrm"], "ddrm needs the singular vectors");
    with(&["--task", "sr4", "--method", "dmap:k=3", "--inner", "3"], "--inner is the option k of dmap");
    with(&["--task", "sr4", "--zeta-unit", "absolute"], "--zeta-unit without --zeta");
    with(&["--task", "sr4", "--method", "nope", "--zeta", "1"], "unknown method nope");
    with(&["--task", "sr4", "--method", "auto:k=1"], "auto takes no options");
    with(&["--task", "sr4", "--estimate", "map", "--method", "dps"], "--estimate map: dps draws samples");
    with(&["--task", "sr4", "--steps", "99999999999"], "choose 1 to 1000");
    with(&["--task", "sr4", "--spacing", "linear"], "dpir chooses its levels itself");
    with(&["--task", "sr4", "--method", "ddnm", "--eta", "0.5"], "ddnm has no use for the sampler's eta");
    with(&["--task", "sr4", "--steps", "0"], "0 steps");
    with(&["--task", "sr4", "--steps", "-5"], "");
    with(&["--task", "sr4", "--zeta", "-1"], "");
    with(&["--task", "gaussian-blur:size=9", "--whiten=-1"], "whiten is -1");
    with(&["--task", "gaussian-blur:size=9", "--whiten=inf"], "whiten is inf");
    with(&["--task", "gaussian-blur:size=9", "--whiten", "much"], "--whiten");
    with(
        &["--task", "gaussian-blur:size=9", "--zeta", "1", "--zeta-unit", "absolute", "--whiten", "1"],
        "whiten needs step=polyak",
    );
    with(&["--task", "sr4", "--inner", "0"], "k is 0, expected a whole number from 1");
    with(&["--task", "sr4", "--memory", "lots"], "4GiB");
    with(&["--task", "sr4", "--memory", "12MiB"], "the smallest plan needs");
    with(&["--task", "sr4", "--noise", "loud"], "0.025");
    with(&["--task", "sr4", "--device", "cuda:99"], "CUDA");
    with(&["--task", "sr4", "--device", "abacus"], "unknown device");
    with(&["--task", "sr4", "--model", "missing.safetensors"], "no such weight file");
    with(&["--task", "sr4", "--size", "0"], "not a size");
    with(&["--task", "motion-blur"], "too large for an image of 16x16");
    refused(&["restore", &f.string("none.png"), "--task", "sr4", "--out", &out], "none.png");
    refused(&["restore", &f.string("*.jpg"), "--task", "sr4", "--out", &out], "No such file");
    refused(&["plan", "--model", "adm-1024"], "there are adm-64-cond, adm-128-cond, adm-256");
    refused(&["info", &photo], "neither safetensors");
    refused(&["info", "photograph"], "photograph");
}

#[test]
fn wrong_kernel_variants_are_refused() {
    for (variants, words) in [("conf=mma", "did you mean conv"), ("conv=mma_65", "mma_64"), ("conv", "conv=mma")] {
        for command in [&["selftest", "--device", "cpu"][..], &["bench", "--device", "cpu"]] {
            let out = Command::new(env!("CARGO_BIN_EXE_dmap")).args(command).env("DMAP_VARIANTS", variants).output();
            let (out, said) = out.map(|out| (out.status.code(), text(&out))).unwrap();
            assert!(out == Some(2) && said.contains(words), "{variants}: {said}");
        }
    }
}

#[test]
fn info_describes_the_priors_inside_the_program() {
    for (name, said) in [("photo", "predicts epsilon"), ("tiny-latent", "latents of 4 channels")] {
        let out = dmap(&["info", name]);
        assert!(out.status.success() && text(&out).contains(said), "{}", text(&out));
    }
}

#[test]
fn masks_and_kernels_of_the_wrong_size_are_refused() {
    let f = Folder::new();
    let photo = f.picture("p.png", 16, 16);
    let mask = f.picture("mask.png", 16, 12);
    let run = |task: &str, words: &str| refused(&["restore", &photo, "--task", task, "--out", &f.string("o")], words);
    run(&format!("inpaint-mask:mask={mask}"), "the mask has 16x12 pixels, the image 16x16");
    run(&format!("motion-blur:kernel={mask}"), "square with an odd side");
    run("inpaint-mask", "mask=FILE");
    run(&format!("inpaint-mask:mask={}", f.string("none.png")), "none.png");
    // A mask and a kernel that fit.
    let right = f.picture("right.png", 16, 16);
    let kernel = f.picture("kernel.png", 7, 7);
    for task in [format!("inpaint-mask:mask={right}"), format!("motion-blur:kernel={kernel}")] {
        let o = dmap(&["restore", &photo, "--task", &task, "--steps", "2", "--overwrite", "--out", &f.string("o")]);
        assert!(o.status.success(), "{}", text(&o));
    }
}

#[test]
fn an_unwritable_output_is_refused_before_any_work() {
    let f = Folder::new();
    let photo = f.picture("p.png", 16, 16);
    // A file where the folder should be: refused for every user, root included.
    std::fs::write(f.path("file"), b"").unwrap();
    refused(&["restore", &photo, "--task", "sr4", "--out", &f.string("file/out")], "file/out");
}

#[test]
fn plan_prints_json_and_draws_memory() {
    let f = Folder::new();
    let svg = f.string("memory.svg");
    let o = dmap(&[
        "plan", "--model", "photo", "--size", "256", "--method", "dmap", "--json", "--svg", &svg, "--memory", "150MiB",
    ]);
    assert!(o.status.success(), "{}", text(&o));
    let report: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}"));
    assert!(
        number("flops_forward") > 0
            && number("flops_vjp") > 0
            && number("flops_recompute") > 0
            && number("launches") > 0
    );
    assert_eq!(number("total_bytes"), number("weight_bytes") + number("arena_bytes") + number("io_bytes"));
    // Sums in parts of the small layers.
    assert!((1..100 << 20).contains(&number("scratch_bytes")), "{}", number("scratch_bytes"));
    assert!(number("total_bytes") <= 150 << 20 && number("minimum_total_bytes") <= number("total_bytes"));
    let names: Vec<&str> = report["graphs"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["outer", "inner"]);
    assert_eq!(report["graphs"][1]["runs"], 5);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("recomputed"));
    refused(&["plan", "--model", "photo", "--size", "256", "--memory", "20MiB"], "smallest plan needs");
}

#[test]
fn plan_writes_every_node_with_its_work_and_time() {
    let f = Folder::new();
    let nodes = f.string("nodes.jsonl");
    let flags = ["--model", "photo", "--size", "256", "--method", "dmap", "--precision", "bf16", "--memory", "100MiB"];
    let o = dmap(&[&["plan", "--json", "--nodes", &nodes], &flags[..]].concat());
    assert!(o.status.success(), "{}", text(&o));
    let report: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let rows: Vec<serde_json::Value> =
        std::fs::read_to_string(&nodes).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let table = include_str!("../../src/cli/time_model.tsv").lines().find(|l| l.starts_with("gap")).unwrap();
    let gap_us: f64 = table.split('\t').nth(2).unwrap().parse().unwrap();
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let (mut count, mut us) = (0, 0.0);
    for graph in report["graphs"].as_array().unwrap() {
        let own: Vec<_> = rows.iter().filter(|r| r["graph"] == graph["name"]).collect();
        let sum = |key: &str| own.iter().map(|r| number(&r[key])).sum::<f64>();
        // One gap after each node, however many launches it has.
        let launched = own.iter().filter(|r| number(&r["launches"]) > 0.0).count() as f64;
        assert!(launched > 0.0 && launched < sum("launches"), "{graph}");
        assert_eq!(sum("launches"), number(&graph["launches"]), "{graph}");
        let flops = ["flops_forward", "flops_vjp", "flops_recompute"].map(|key| number(&graph[key]));
        assert_eq!(sum("operations"), flops.iter().sum::<f64>(), "{graph}");
        us += number(&graph["runs"]) * (sum("predicted_us") + launched * gap_us);
        count += own.len();
    }
    assert_eq!(count, rows.len());
    assert!((1e-3 * us / number(&report["predicted_ms"]) - 1.0).abs() < 1e-9, "{us}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_finished_images_whole() {
    let f = Folder::new();
    std::fs::create_dir(f.path("in")).unwrap();
    f.picture("in/a.png", 16, 16);
    f.picture("in/b.png", 256, 256);
    let arguments = ["restore", &f.string("in"), "--task", "sr4", "--steps", "40", "--out", &f.string("o")];
    let child =
        Command::new(env!("CARGO_BIN_EXE_dmap")).args(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !f.path("o/a/result.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out));
    assert!(f.path("o/a/restored.png").exists() && !f.path("o/b/result.json").exists());
    assert!(walk(f.0.path()).iter().all(|p| !p.to_string_lossy().contains("partial")));
}
