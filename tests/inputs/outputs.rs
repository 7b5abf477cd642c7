//! Results on disk: a second run that differs from the first, runs that fail half-way, names that
//! lead elsewhere.

use crate::table::{Folder, check, dmap, json, picture, row, text};
use std::path::Path;

const STEPS: [&str; 2] = ["--steps", "2"];

/// The arguments that restore `input` into `out` in two steps.
fn restore<'a>(input: &'a str, task: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", input, "--task", task, "--out", out][..], &STEPS, more].concat()
}

#[test]
fn a_second_run_is_skipped_if_it_is_the_same_and_refused_if_it_is_not() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 16, 16), f.string("out"));
    let with = |more: &[&str]| -> Vec<String> {
        restore(&photo, "inpaint-random", &out, &["--estimate", "sample"])
            .iter()
            .chain(more)
            .map(|a| a.to_string())
            .collect()
    };
    let first = dmap(&with(&[]));
    assert!(first.status.success(), "{}", text(&first));
    let written = std::fs::read(f.path("out/p/restored.png")).unwrap();
    let weights = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/photo/photo.safetensors");
    let other_model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");
    check(&[
        row("the same", with(&[]), 0, "finished before"),
        row("the same model under another name", with(&["--model", weights]), 0, "finished before"),
        row("another batch", with(&["--batch", "3"]), 0, "finished before"),
        row("another task", restore(&photo, "denoise", &out, &[]), 2, "there, denoise here"),
        row("another seed", with(&["--seed", "1"]), 2, "seed is 0 there, 1 here"),
        row("another noise", with(&["--noise", "0.05"]), 2, "noise is"),
        row(
            "another method",
            with(&["--method", "dps"]),
            2,
            "method is dmap:k=5,step=polyak:0.4 there, dps:step=polyak:0.3 here",
        ),
        row("another method", with(&["--method", "dmap:k=4"]), 2, "method is dmap:k=5,step=polyak:0.4 there, dmap:k=4"),
        row("several samples", with(&["--samples", "2"]), 2, "samples is 1 there, 2 here"),
        row("a crop", with(&["--size", "8"]), 2, "crop is null there, [8,8] here"),
        row("another model", with(&["--model", other_model]), 2, "model is photo there, adm_a.safetensors here"),
    ]);
    // Two differences are both named.
    let o = dmap(&with(&["--seed", "1", "--eta", "0.5"]));
    let said = text(&o);
    assert!(said.contains("seed is 0 there, 1 here") && said.contains("eta is 1.0 there, 0.5 here"), "{said}");
    assert!(said.contains("give another --out, or --overwrite"), "{said}");
    picture(18, 16).part(2, 0, 16, 16).write_png(&f.path("p.png")).unwrap();
    check(&[row("another photo of that name", with(&[]), 2, "the input file has another content")]);
    assert_eq!(std::fs::read(f.path("out/p/restored.png")).unwrap(), written, "refused runs leave the result");
    let result = json(&f.path("out/p/result.json"));
    assert_eq!(result["input_sha256"].as_str().unwrap().len(), 64);
    check(&[row("overwriting", with(&["--seed", "1", "--overwrite"]), 0, "residual")]);
    assert_eq!(json(&f.path("out/p/result.json"))["seed"], 1);
    std::fs::write(f.path("out/p/result.json"), "{}").unwrap();
    check(&[row("a result that does not say", with(&["--seed", "1"]), 2, "seed is not recorded there")]);
}

#[test]
fn a_changed_mask_or_kernel_file_is_another_run() {
    let f = Folder::new();
    let (photo, out, mask) = (f.picture("p.png", 16, 16), f.string("out"), f.picture("m.png", 16, 16));
    let task = format!("inpaint-mask:mask={mask}");
    check(&[row("the first", restore(&photo, &task, &out, &[]), 0, "residual")]);
    picture(17, 16).part(1, 0, 16, 16).write_png(mask.as_ref()).unwrap();
    check(&[row(
        "another mask of that name",
        restore(&photo, &task, &out, &[]),
        2,
        "file of the task has another content",
    )]);
}

#[test]
fn an_image_that_cannot_be_written_costs_no_other() {
    let f = Folder::new();
    std::fs::create_dir_all(f.path("in")).unwrap();
    for name in ["a", "b", "c"] {
        f.picture(&format!("in/{name}.png"), 16, 16);
    }
    // A folder stands where a picture of b should be, so that it can't be written, even by root.
    std::fs::create_dir_all(f.path("out/b/restored.png/x")).unwrap();
    let (input, out) = (f.string("in"), f.string("out"));
    let o = dmap(&restore(&input, "sr2", &out, &["--batch", "3"]));
    let said = text(&o);
    assert!(o.status.code() == Some(2) && said.contains("restored.png"), "{said}");
    assert!(said.contains("1 of 3 inputs could not be restored, 2 were"), "{said}");
    assert!(f.path("out/a/result.json").exists() && f.path("out/c/result.json").exists());
    assert!(!f.path("out/b/result.json").exists(), "an image that was not written whole is not finished");
}

#[test]
fn a_failed_overwrite_leaves_no_old_result_beside_a_new_picture() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 16, 16), f.string("out"));
    check(&[row("the first", restore(&photo, "sr2", &out, &[]), 0, "residual")]);
    std::fs::remove_file(f.path("out/p/comparison.png")).unwrap();
    std::fs::create_dir_all(f.path("out/p/comparison.png/x")).unwrap();
    check(&[row("fails", restore(&photo, "sr2", &out, &["--seed", "1", "--overwrite"]), 2, "comparison.png")]);
    assert!(!f.path("out/p/result.json").exists());
}

#[test]
fn an_image_too_large_for_the_budget_is_named_and_the_rest_goes_on() {
    let f = Folder::new();
    std::fs::create_dir_all(f.path("in")).unwrap();
    f.picture("in/a.png", 256, 256);
    f.picture("in/b.png", 16, 16);
    let (input, out) = (f.string("in"), f.string("out"));
    let o = dmap(&restore(&input, "sr2", &out, &["--memory", "60MiB"]));
    let said = text(&o);
    assert!(o.status.code() == Some(2) && said.contains("a.png: the memory budget of 60.0 MiB is too small"), "{said}");
    assert!(f.path("out/b/result.json").exists() && !f.path("out/a").exists(), "{said}");
}

#[cfg(unix)]
#[test]
fn no_input_name_leaves_the_output_folder_or_reaches_the_terminal() {
    use std::os::unix::ffi::OsStringExt;
    let f = Folder::new();
    std::fs::create_dir_all(f.path("in")).unwrap();
    let bytes = std::fs::read(f.picture("p.png", 16, 16)).unwrap();
    let names: [&[u8]; 5] = [b"...png", b"..png", b"\x1b[31mred.png", b"caf\xe9.png", b"caf\xe8.png"];
    for name in names {
        std::fs::write(f.path("in").join(std::ffi::OsString::from_vec(name.to_vec())), &bytes).unwrap();
    }
    let (input, out) = (f.string("in"), f.string("deep/out"));
    let o = dmap(&restore(&input, "sr2", &out, &[]));
    let said = text(&o);
    assert!(o.status.success(), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let results = |folder: &Path| std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let folders = results(&f.path("deep/out"));
    assert_eq!(folders.len(), 5, "{folders:?}");
    assert!(folders.iter().all(|p| p.join("result.json").exists()), "{folders:?}");
    assert_eq!(results(&f.path("deep")), [f.path("deep/out")], "nothing lies beside the output folder");
    // A name that is no UTF-8, typed itself.
    let typed = f.path("in").join(std::ffi::OsString::from_vec(b"caf\xe9.png".to_vec()));
    let mut a: Vec<std::ffi::OsString> = vec!["restore".into(), typed.into()];
    a.extend(["--task", "sr2", "--steps", "2", "--out", &f.string("typed")].map(Into::into));
    assert!(dmap(&a).status.success());
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_write_one_image() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 16, 16), f.string("out"));
    std::fs::create_dir_all(f.path("out/p")).unwrap();
    let held = std::fs::File::open(f.path("out/p")).unwrap();
    held.lock().unwrap();
    check(&[row("while another restores it", restore(&photo, "sr2", &out, &[]), 2, "another process is restoring")]);
    drop(held);
    check(&[row("afterwards", restore(&photo, "sr2", &out, &[]), 0, "residual")]);
}

#[test]
fn flags_that_a_model_or_task_does_not_take_are_refused() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 16, 16), f.string("out"));
    std::fs::write(f.path("file"), "x").unwrap();
    let (file, black, ones) = (f.string("file"), f.string("black.png"), f.string("ones.png"));
    for (path, value) in [(&black, 0u8), (&ones, 1)] {
        let mask = image::GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { value } else { 0 }]));
        mask.save(path).unwrap();
    }
    let (by_black, by_ones) = (format!("inpaint-mask:mask={black}"), format!("inpaint-mask:mask={ones}"));
    let (tiny, kib) = (["--memory", "1"], ["--memory", "300KiB"]);
    let run = |task: &str, more: &[&str]| -> Vec<String> {
        restore(&photo, task, &out, &[]).iter().chain(more).map(|a| a.to_string()).collect()
    };
    check(&[
        row("a label for a model without classes", run("sr2", &["--label", "3"]), 2, "not class-conditional"),
        row("bicubic4", run("bicubic4", &[]), 2, "did you mean sr4"),
        row("sr_bicubic8", run("sr_bicubic8", &[]), 2, "did you mean sr8"),
        row("deblur_gauss", run("deblur_gauss", &[]), 2, "did you mean gaussian-blur"),
        row("super-resolution", run("super-resolution", &[]), 2, "did you mean sr4"),
        row("an output that is a file", restore(&photo, "sr2", &file, &[]), 2, "is a file; give a folder"),
        row("a budget of one byte", run("sr2", &tiny), 2, "budget of 1 bytes is too small"),
        row("a budget under a MiB", run("sr2", &kib), 2, "budget of 300.0 KiB is too small"),
        row("a black mask", run(&by_black, &[]), 2, "largest value of this mask is 0 of 255"),
        row("a mask of 0 and 1", run(&by_ones, &[]), 2, "values 0 and 1 has to be saved as 0 and 255"),
    ]);
}
