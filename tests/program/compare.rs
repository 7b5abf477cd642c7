//! `dmap compare`: the figures and pictures of several methods on the same measurements, and what is
//! refused.

use crate::folder::{Folder, dmap, json, text};
use crate::page::Page;
use dmap::image::{Photo, Picture};
use dmap::metrics::{psnr, ssim};
use std::collections::BTreeMap;
use std::path::Path;

/// A model of ten classes.
const CLASSES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");
const ALEX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/alex.safetensors");

/// The fields of results.csv by photo and method. No name of these tests has a comma.
fn rows(path: &Path) -> BTreeMap<(String, String), Vec<f64>> {
    let table = std::fs::read_to_string(path).unwrap();
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("photo,method,psnr,ssim,lpips,residual_over_noise,passes,seconds"));
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let name = |k: usize| fields[k][1..fields[k].len() - 1].replace("\"\"", "\"");
        ((name(0), name(1)), fields[2..].iter().map(|v| v.parse().unwrap_or(f64::NAN)).collect())
    };
    lines.map(row).collect()
}

fn picture(path: &Path) -> Picture {
    Photo::read(path).unwrap().picture
}

#[test]
fn figures_are_those_of_the_pictures_and_differences_those_of_the_rows() {
    let f = Folder::new();
    let photos = [f.picture("photos/a\".png", 64, 48), f.picture("photos/b.png", 40, 56)];
    let (out, page) = (f.string("out"), f.string("new/page.html"));
    let usual = ["--task", "inpaint-random:missing=0.5", "--noise", "0.05", "--size", "40", "--steps", "2"];
    let began = std::time::Instant::now();
    let o = dmap(
        &[
            &["compare", &f.string("photos"), "--lpips", ALEX, "--method", "ddrm", "--method", "dps:step=polyak:0.2"],
            &usual[..],
            &["--seed", "3", "--device", "cpu", "--out", &out, "--report", &page],
        ]
        .concat(),
    );
    let said = text(&o);
    assert!(o.status.success() && said.contains("2 of 2 photos") && said.contains("look at"), "{said}");
    let rows = rows(&f.path("out/results.csv"));
    let methods = [("naive", "naive.png"), ("ddrm", "ddrm.png"), ("dps:step=polyak:0.2", "dps-step=polyak-0.2.png")];
    assert_eq!(rows.len(), 2 * methods.len());
    for photo in ["a\"", "b"] {
        let path = |name: &str| f.path("out").join(photo).join(name);
        let truth = picture(&f.path("photos").join(format!("{photo}.png"))).centre_crop(40, 40);
        assert!(picture(&path("original.png")) == truth, "{photo}: the centre of the photo");
        for (method, name) in methods {
            let (row, restored) = (&rows[&(photo.into(), method.into())], picture(&path(name)));
            assert!((row[0] - psnr(&restored, &truth)).abs() < 1e-9, "{photo} by {method}: {row:?}");
            assert!((row[1] - ssim(&restored, &truth)).abs() < 1e-9 && row[2] > 0.0, "{photo} by {method}: {row:?}");
            // Passes: none, a forward pass per level, a VJP besides.
            let passes = [("naive", 0.0), ("ddrm", 2.0)].iter().find(|p| p.0 == method).map_or(4.0, |p| p.1);
            assert!(row[5].is_nan() || row[5] < began.elapsed().as_secs_f64(), "{photo} by {method}: {row:?}");
            assert!(row[4] == passes && (row[5] > 0.0 || method == "naive"), "{photo} by {method}: {row:?}");
        }
    }

    // Means and paired differences.
    let found = json(&f.path("out/results.json"));
    let of = |method: &str, k: usize| ["a\"", "b"].map(|photo| rows[&(photo.to_string(), method.to_string())][k]);
    for (at, (method, name)) in methods.iter().enumerate() {
        let means = &found["methods"][at];
        assert!(means["name"] == *method && means["picture"] == *name, "{means}");
        let is_mean = |found: &serde_json::Value, [a, b]: [f64; 2]| {
            // The standard error of two values is half their distance.
            let near = |key: &str, value: f64| (found[key].as_f64().unwrap() - value).abs() < 1e-9;
            assert!(near("mean", (a + b) / 2.0) && near("standard_error", (a - b).abs() / 2.0), "{method}: {found}");
        };
        for (k, key) in ["psnr", "ssim", "lpips", "residual_over_noise"].into_iter().enumerate() {
            is_mean(&means[key], of(method, k));
        }
        let ([a, b], [first_a, first_b]) = (of(method, 0), of("ddrm", 0));
        match *method {
            "ddrm" => assert!(means["psnr_over_first"].is_null()),
            _ => is_mean(&means["psnr_over_first"], [a - first_a, b - first_b]),
        }
        let row = said.lines().rfind(|l| l.starts_with(method)).unwrap();
        assert!(row.contains(&format!("{:.2} ± {:.2}", (a + b) / 2.0, (a - b).abs() / 2.0)), "{row}");
    }
    let best = methods.iter().map(|m| of(m.0, 0).iter().sum::<f64>()).fold(f64::MIN, f64::max) / 2.0;
    let starred = said
        .lines()
        .filter(|l| l.split("  ").any(|c| c.trim().starts_with(&format!("{best:.2} ±")) && c.contains('*')));
    assert_eq!(starred.count(), 1, "{said}");

    // The page has every picture of both photos, and a dot for each method on each.
    let page = Page::read(&f.path("new/page.html"));
    assert_eq!(page.stands_by_itself(), vec![(40, 40); 2 * 5]);
    assert_eq!((page.count("data-side=\"both\""), page.count("class=\"dot\"")), (10, 6));
    assert!(page.count("a&quot;.png") == 1 && page.count("<strong>") >= 2 * 3);

    for ((photo, method), row) in &rows {
        // Two photos may have the same figure.
        assert!(page.count(&format!("{method}, {:.2} dB", row[0])) > 0, "{photo} by {method}");
    }

    // `restore` measures and restores the same.
    for (method, name) in &methods[1..] {
        let alone = f.string(&format!("alone-{name}"));
        let restore = ["restore", &photos[1], "--method", method, "--seed", "3", "--device", "cpu", "--out", &alone];
        let o = dmap(&[&restore[..], &usual].concat());
        assert!(o.status.success(), "{}", text(&o));
        let read = |folder: &str, name: &str| std::fs::read(Path::new(folder).join("b").join(name)).unwrap();
        assert!(read(&out, name) == read(&alone, "restored.png"), "{method}");
        assert!(read(&out, "measurement.png") == read(&alone, "measurement.png"), "{method}");
    }
}

#[test]
fn a_model_is_conditioned_on_a_class_as_by_restore() {
    let f = Folder::new();
    let photo = f.picture("a.png", 16, 16);
    let run = |command: &str, out: &str, more: &[&str]| {
        let usual = [command, &photo, "--model", CLASSES, "--task", "sr2", "--method", "dps", "--steps", "2"];
        let o = dmap(&[&usual[..], &["--device", "cpu", "--out", &f.string(out)], more].concat());
        assert!(o.status.success(), "{}", text(&o));
        text(&o)
    };
    let read = |name: &str| std::fs::read(f.path(name)).unwrap();
    assert!(!run("compare", "second", &["--label", "1"]).contains("class 0 is taken"));
    assert!(run("compare", "first", &[]).contains("class 0 is taken"));
    run("restore", "alone", &["--label", "1"]);
    assert!(read("second/a/dps.png") == read("alone/a/restored.png"));
    assert!(read("second/a/dps.png") != read("first/a/dps.png"));
    let label = |folder: &str| json(&f.path(folder).join("results.json"))["label"].clone();
    assert_eq!([label("second"), label("first")], [1, 0]);
}

#[test]
fn what_cannot_be_compared_is_refused_in_a_sentence() {
    let f = Folder::new();
    let photo = f.picture("photos/a.png", 24, 16);
    let refused = |more: &[&str], words: &str| {
        let usual = ["compare", &photo, "--steps", "1", "--device", "cpu", "--out", &f.string("out")];
        let o = dmap(&[&usual[..], more].concat());
        let said = text(&o);
        assert!(o.status.code() == Some(2) && said.contains(words), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!f.path("out").exists(), "{words}");
    };
    refused(&["--task", "sr2", "--method", "dps", "--method", "dps"], "--method dps is given twice");
    refused(
        &["--task", "jpeg", "--method", "dmap", "--method", "auto"],
        "--method auto and --method dmap are the same",
    );
    refused(&["--task", "sr2", "--method", "dsp"], "dsp");
    refused(&["--task", "sr2", "--method", "auto:k=2"], "auto takes no options");
    refused(&["--task", "jpeg", "--method", "ddrm"], "ddrm");
    refused(&["--task", "no-such"], "no-such");
    refused(&["--task", "sr2", "--label", "1"], "the model is not class-conditional");
    refused(&["--task", "sr2", "--prompt", "a dog"], "--prompt is for latent models");
    refused(&["--task", "sr2", "--noise", "much"], "--noise much");
    refused(&["--task", "sr2", "--report", &photo], "no page of dmap");
}

#[test]
fn results_stay_unless_they_are_replaced_and_a_bad_photo_does_not_stop_the_others() {
    let f = Folder::new();
    f.picture("photos/b.png", 24, 16);
    std::fs::write(f.path("photos/<a>.png"), "no picture").unwrap();
    let (photos, out, page) = (f.string("photos"), f.string("out"), f.string("page.html"));
    let run = |more: &[&str]| {
        let usual = ["compare", &photos, "--task", "sr2", "--steps", "1", "--device", "cpu", "--out", &out];
        let o = dmap(&[&usual[..], &["--method", "dps"], more].concat());
        (o.status.code(), text(&o))
    };
    let (code, said) = run(&["--limit", "1"]);
    assert!(code == Some(2) && said.contains("none of the photos could be restored"), "{said}");
    assert!(!f.path("out").exists(), "an empty folder is not left");
    std::fs::create_dir(f.path("out")).unwrap();
    run(&["--limit", "1"]);
    assert!(f.path("out").exists(), "a folder that was there stays");
    let (code, said) = run(&["--report", &page]);
    assert!(code == Some(2) && said.contains("<a>.png") && said.contains("1 of 2 photos"), "{said}");
    assert!(said.contains(" ± -"), "one photo has no standard error: {said}");
    let page = Page::read(&f.path("page.html"));
    assert!(page.count("Not restored") == 1 && page.count("&lt;a&gt;.png") == 1);
    let mut names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "results.csv", "results.json"], "nothing half-written is left");

    let before = std::fs::read(f.path("out/results.json")).unwrap();
    let (code, said) = run(&["--seed", "1"]);
    assert!(code == Some(2) && said.contains("holds results; give another --out, or --overwrite"), "{said}");
    assert!(std::fs::read(f.path("out/results.json")).unwrap() == before);
    let (code, _) = run(&["--seed", "1", "--overwrite"]);
    assert!(code == Some(2) && json(&f.path("out/results.json"))["seed"] == 1);
}

#[test]
fn a_budget_of_passes_sets_the_levels_of_every_method() {
    let f = Folder::new();
    let (photo, out) = (f.picture("a.png", 16, 16), f.string("out"));
    let methods = ["--method", "auto", "--method", "dps", "--method", "ddrm"];
    let usual = ["compare", &photo, "--task", "sr2", "--passes", "7", "--device", "cpu", "--out", &out];
    let o = dmap(&[&usual[..], &methods].concat());
    assert!(o.status.success(), "{}", text(&o));
    let rows = rows(&f.path("out/results.csv"));
    let passes = |method: &str| rows[&("a".to_string(), method.to_string())][4];
    assert_eq!((passes("dps"), passes("ddrm")), (6.0, 7.0), "a level of DPS takes two");
    assert!((4.0..=7.0).contains(&passes("auto")), "{}", passes("auto"));
}

#[test]
fn a_grey_photo_gives_grey_pictures_and_what_looks_the_same_counts_the_same() {
    let f = Folder::new();
    let photo = f.path("grey.png");
    let value = |i: usize| ((i / 3 % 16) as f32 * 0.7).sin() * 0.5;
    Picture { width: 16, height: 16, values: (0..16 * 16 * 3).map(value).collect() }.write_grey_png(&photo).unwrap();
    let (photo, out) = (f.string("grey.png"), f.string("out"));
    let arguments = ["compare", &photo, "--task", "phase-retrieval", "--steps", "2", "--method", "dps", "--out", &out];
    let o = dmap(&arguments);
    assert!(o.status.success(), "{}", text(&o));
    let found = json(&f.path("out/results.json"));
    // Four runs of two levels, each with a forward pass and a VJP.
    assert_eq!(found["rows"][1]["passes"], 16);
    let path = f.path("out/grey/dps.png");
    assert_eq!(image::open(&path).unwrap().color(), image::ColorType::L8);
    let (restored, truth) = (picture(&path), picture(&f.path("grey.png")));
    let of = |p: &Picture| psnr(p, &truth);
    let found = found["rows"][1]["psnr"].as_f64().unwrap();
    assert!((found - of(&restored)).abs() < 1e-9, "{found}");
    let negative = Picture { values: restored.values.iter().map(|v| -v).collect(), ..restored.clone() };
    let turned = Picture { values: restored.values.chunks(3).rev().flatten().copied().collect(), ..restored };
    assert!(found >= of(&negative) && found >= of(&turned), "the form nearest to the photo");

    // `restore` takes the best of the same runs.
    let alone = f.string("alone");
    let o = dmap(&["restore", &photo, "--task", "phase-retrieval", "--steps", "2", "--method", "dps", "--out", &alone]);
    assert!(o.status.success(), "{}", text(&o));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(f.path("alone/grey/restored.png")).unwrap());

    // What a mosaic shows of a grey photo has colours; its naive restoration is grey all the same.
    let mosaic = f.string("mosaic");
    let o = dmap(&["compare", &photo, "--task", "demosaic", "--steps", "2", "--method", "dps", "--out", &mosaic]);
    assert!(o.status.success(), "{}", text(&o));
    let naive = picture(&f.path("mosaic/grey/naive.png"));
    let found = json(&f.path("mosaic/results.json"))["rows"][0]["psnr"].as_f64().unwrap();
    assert!(naive.is_grey() && (found - of(&naive)).abs() < 1e-9, "{found} and {}", of(&naive));
    let o = dmap(&["restore", &photo, "--task", "demosaic", "--steps", "2", "--method", "dps", "--out", &mosaic]);
    assert!(o.status.success(), "{}", text(&o));
    assert_eq!(json(&f.path("mosaic/grey/result.json"))["psnr_baseline"].as_f64(), Some(found));
}

#[cfg(unix)]
#[test]
fn after_ctrl_c_the_photos_that_are_finished_stay() {
    use std::process::{Command, Stdio};
    let f = Folder::new();
    // The second photo takes so long that it can't be finished before the signal.
    f.picture("photos/a.png", 16, 16);
    f.picture("photos/b.png", 128, 128);
    let (photos, out, page) = (f.string("photos"), f.string("out"), f.string("page.html"));
    let mut run = Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args(["compare", &photos, "--task", "sr2", "--method", "dps", "--steps", "200", "--device", "cpu"])
        .args(["--out", &out, "--report", &page])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !f.path("out/results.json").exists() {
        assert!(run.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(rows(&f.path("out/results.csv")).len(), 2);
    assert_eq!(Page::read(&f.path("page.html")).stands_by_itself().len(), 4);
    assert!(!f.path("out/b").exists());
}
