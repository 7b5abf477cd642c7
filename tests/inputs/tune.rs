//! `dmap tune`, what `dmap restore --preset` makes of its file, and budgets in seconds.

use crate::table::{Folder, check, dmap, json, picture, row, text};

/// A folder with three different pictures of 24x24 pixels in `photos`.
fn with_photos() -> Folder {
    let f = Folder::new();
    std::fs::create_dir(f.path("photos")).unwrap();
    for k in 0..3 {
        picture(48, 24).part(8 * k, 0, 24, 24).write_png(&f.path(&format!("photos/{k}.png"))).unwrap();
    }
    f
}

/// Arguments that do not go together, which the parser of flags refuses.
fn conflict(arguments: &[&str]) {
    let o = dmap(arguments);
    assert!(o.status.code() == Some(2) && text(&o).contains("cannot be used with"), "{arguments:?}: {}", text(&o));
}

#[test]
fn a_preset_holds_what_the_search_found_and_restore_takes_it() {
    let f = with_photos();
    let (photos, preset, out) = (f.string("photos"), f.string("preset.json"), f.string("out"));
    let nowhere = f.string("none/preset.json");
    let base = ["tune", &photos, "--task", "sr2", "--noise", "0.1", "--passes", "3", "--hold-out"];
    let tune = |out| [&base[..], &["--out", out]].concat();
    check(&[
        row("a folder that is not there", tune(&nowhere), 2, "there is no folder"),
        row("a class of a model without", [&tune(&preset)[..], &["--label", "1"]].concat(), 2, "class-conditional"),
    ]);
    let done = dmap(&tune(&preset));
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("2 photos") && text(&done).contains("1 held out"), "{}", text(&done));
    let row_of = || json(&f.path("preset.json"))["rows"][0].clone();
    let found = row_of();
    assert_eq!((found["task"].as_str(), found["noise"].as_str()), (Some("sr2"), Some("0.1")));
    let (psnr, of_auto) = (found["psnr"].as_f64().unwrap(), found["psnr_of_auto"].as_f64().unwrap());
    // The search starts from auto, and on these pictures it gets further.
    assert!(psnr > of_auto && found["held_out"]["photos"] == 1, "{found}");
    assert!(found["passes"].as_u64().unwrap() <= 3, "{found}");

    let photo = f.string("photos/0.png");
    let restore = |task, more: &[&'static str]| {
        let base = ["restore", &photo, "--task", task, "--noise", "0.08", "--out", &out, "--preset", &preset];
        base.iter().chain(more).map(|a| a.to_string()).collect::<Vec<_>>()
    };
    let done = dmap(&restore("sr2", &[]));
    assert!(done.status.success() && !text(&done).contains("tuned with another model"), "{}", text(&done));
    let result = json(&f.path("out/0/result.json"));
    assert_eq!((&result["method"], &result["steps"]), (&found["method"], &found["steps"]));
    let other_model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");
    check(&[
        row("an existing preset", tune(&preset), 2, "preset.json exists; choose another --out, or give --overwrite"),
        row("another task", restore("sr4", &[]), 2, "the preset has no row for sr4 (map); it has sr2 (map)"),
        row("another kind of answer", restore("sr2", &["--estimate", "sample"]), 2, "no row for sr2 (sample)"),
        row("another model", restore("sr2", &["--model", other_model, "--overwrite"]), 0, "tuned with another model"),
        row(
            "no preset",
            ["restore", &photo, "--task", "sr2", "--out", &out, "--preset", &nowhere],
            2,
            "none/preset.json: ",
        ),
    ]);
    let refs = restore("sr2", &["--steps", "3"]);
    conflict(&refs.iter().map(|a| &a[..]).collect::<Vec<_>>());
    std::fs::write(&preset, "{\"rows\": 3}").unwrap();
    check(&[row("another JSON", restore("sr2", &[]), 2, "not a preset of `dmap tune`")]);
}

#[test]
fn options_that_were_given_stay_and_samplers_are_tuned_as_samplers() {
    let f = with_photos();
    let (photo, preset) = (f.string("photos/1.png"), f.string("preset.json"));
    let tune = |more: &[&'static str]| {
        let base = ["tune", &photo, "--task", "inpaint-random", "--passes", "4", "--size", "16", "--out", &preset];
        base.iter().chain(more).map(|a| a.to_string()).collect::<Vec<_>>()
    };
    let done = dmap(&tune(&["--estimate", "sample", "--method", "ddrm:eta=0.5", "--method", "ddnm:cg=2,eta=1"]));
    assert!(done.status.success(), "{}", text(&done));
    let found = json(&f.path("preset.json"))["rows"][0].clone();
    let method = found["method"].as_str().unwrap();
    assert!(method.starts_with("ddrm:eta=0.5,") || method == "ddnm:eta=1,cg=2", "{method}");
    assert_eq!(found["estimate"], "sample");
    check(&[
        row(
            "a sampler for one image",
            tune(&["--overwrite", "--method", "ddrm"]),
            2,
            "ddrm gives --estimate sample, not map",
        ),
        row(
            "one photo, half held out",
            tune(&["--overwrite", "--hold-out"]),
            2,
            "--hold-out needs at least two photos",
        ),
        row("no such method", tune(&["--overwrite", "--method", "dprm"]), 2, "unknown method dprm: did you mean"),
    ]);
}

#[test]
fn the_paper_is_a_preset() {
    let f = with_photos();
    let plan = |task| {
        let out = dmap(&["plan", "--model", "sd2", "--size", "512", "--task", task, "--preset", "paper", "--json"]);
        assert!(out.status.success(), "{}", text(&out));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    let sr8 = plan("sr8");
    // One pass and three times two at each of 500 levels; none of the six at the last.
    assert_eq!((&sr8["levels"], &sr8["passes"]), (&500.into(), &(500 * 7 - 6).into()));
    assert!(sr8["method"].as_str().unwrap().starts_with("dmap:k=3,step=published:4.8"), "{sr8}");
    assert!(plan("gaussian-blur")["method"].as_str().unwrap().contains("published:0.6"));
    let (photo, out) = (f.string("photos/0.png"), f.string("out"));
    conflict(&["restore", &photo, "--task", "sr2", "--out", &out, "--preset", "paper", "--passes", "9"]);
}

#[test]
fn seconds_are_a_number_of_passes() {
    let f = with_photos();
    let (photo, out) = (f.string("photos/0.png"), f.string("out"));
    let restore = ["restore", &photo, "--task", "sr2", "--method", "dps", "--out", &out, "--seconds"];
    let with = |seconds| [&restore[..], &[seconds]].concat();
    let done = dmap(&with("2"));
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    let passes = said.split("2 s are ").nth(1).and_then(|s| s.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
    let result = json(&f.path("out/0/result.json"));
    // DPS takes two passes per level.
    assert_eq!(result["steps"].as_u64(), passes.map(|n| n / 2), "{said}");
    // Wide enough for a machine that does other work meanwhile.
    assert!((0.7..6.0).contains(&result["seconds"].as_f64().unwrap()), "{said}");
    check(&[
        row("too short", with("0.000001"), 2, "one network pass takes"),
        row("no time", with("0"), 2, "give a time above 0"),
    ]);
    conflict(&[&with("1")[..], &["--passes", "4"]].concat());
}

#[test]
fn settings_follow_the_noise_that_a_measurement_file_says() {
    let f = with_photos();
    let (photo, made, out) = (f.string("photos/0.png"), f.string("made"), f.string("out"));
    let first = dmap(&["restore", &photo, "--task", "sr2", "--noise", "0.1", "--passes", "1", "--out", &made]);
    assert!(first.status.success(), "{}", text(&first));
    let file = f.string("made/0/measurement.safetensors");
    let again = dmap(&["restore", &file, "--measurement", "--task", "sr2", "--out", &out]);
    assert!(again.status.success(), "{}", text(&again));
    let method = json(&f.path("out/measurement/result.json"))["method"].as_str().unwrap().to_string();
    assert!(method.contains("noise=0.5"), "{method}");
}
