//! `dmap tune` and what `dmap restore --preset` makes of its file; budgets in seconds.

use dmap::image::Picture;
use std::path::PathBuf;
use std::process::{Command, Output};

fn dmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmap")).args(arguments).output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Runs what should fail: exit code 2, and one sentence with `words`.
fn refused(arguments: &[&str], words: &str) {
    let out = dmap(arguments);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(words) && !said.contains("panicked"), "{arguments:?}: {said}");
}

/// A folder with three smooth pictures of 24x24 pixels.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let f = Folder(tempfile::tempdir().unwrap());
        std::fs::create_dir(f.path("photos")).unwrap();
        for k in 0..3 {
            let value = |i: usize| ((i / 3 % 24) as f32 * 0.4 + k as f32).sin() * ((i / 72) as f32 * 0.3).cos() * 0.8;
            let picture = Picture { width: 24, height: 24, values: (0..24 * 24 * 3).map(value).collect() };
            picture.write_png(&f.path(&format!("photos/{k}.png"))).unwrap();
        }
        f
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn string(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn json(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn a_preset_holds_what_the_search_found_and_restore_takes_it() {
    let f = Folder::new();
    let (photos, preset, out) = (f.string("photos"), f.string("preset.json"), f.string("out"));
    let tune = ["tune", &photos, "--task", "sr2", "--noise", "0.1", "--passes", "3", "--hold-out", "--out", &preset];
    let done = dmap(&tune);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("2 photos") && text(&done).contains("1 held out"), "{}", text(&done));
    let row = json(&std::fs::read(&preset).unwrap())["rows"][0].clone();
    assert_eq!((row["task"].as_str(), row["noise"].as_str()), (Some("sr2"), Some("0.1")));
    let (psnr, of_auto) = (row["psnr"].as_f64().unwrap(), row["psnr_of_auto"].as_f64().unwrap());
    // auto is where the search starts.
    assert!(psnr >= of_auto && row["held_out"]["photos"] == 1, "{row}");
    assert!(row["passes"].as_u64().unwrap() <= 3, "{row}");
    refused(&[&tune[..tune.len() - 1], &["/none/preset.json"]].concat(), "there is no folder /none to write it into");
    refused(&tune, "preset.json exists; choose another --out, or give --overwrite");

    let photo = f.string("photos/0.png");
    let restore = ["restore", &photo, "--task", "sr2", "--noise", "0.08", "--out", &out, "--preset", &preset];
    let done = dmap(&restore);
    assert!(done.status.success(), "{}", text(&done));
    let result = json(&std::fs::read(f.path("out/0/result.json")).unwrap());
    assert_eq!((&result["method"], &result["steps"]), (&row["method"], &row["steps"]));
    let other = ["restore", &photo, "--task", "sr4", "--out", &out, "--preset", &preset];
    refused(&other, "the preset has no row for sr4 (map); it has sr2 (map)");
    refused(&[&restore[..], &["--estimate", "sample"]].concat(), "no row for sr2 (sample)");
    refused(&[&restore[..], &["--steps", "3"]].concat(), "cannot be used with");
    std::fs::write(&preset, "{\"rows\": 3}").unwrap();
    refused(&restore, "not a preset of `dmap tune`");
    refused(&["restore", &photo, "--task", "sr2", "--out", &out, "--preset", "/none.json"], "/none.json: ");
}

#[test]
fn options_that_were_given_stay_and_samplers_are_tuned_as_samplers() {
    let f = Folder::new();
    let (photo, preset) = (f.string("photos/1.png"), f.string("preset.json"));
    let tune = |more: &[&str]| {
        let base = ["tune", &photo, "--task", "inpaint-random", "--passes", "4", "--size", "16", "--out", &preset];
        [&base[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let sampled = tune(&["--estimate", "sample", "--method", "ddrm:eta=0.5", "--method", "ddnm:cg=2,eta=1"]);
    let done = dmap(&sampled.iter().map(|a| &a[..]).collect::<Vec<_>>());
    assert!(done.status.success(), "{}", text(&done));
    let row = json(&std::fs::read(&preset).unwrap())["rows"][0].clone();
    let method = row["method"].as_str().unwrap();
    assert!(method.starts_with("ddrm:eta=0.5,") || method == "ddnm:eta=1,cg=2", "{method}");
    assert_eq!(row["estimate"], "sample");
    let wrong = tune(&["--overwrite", "--method", "ddrm"]);
    refused(&wrong.iter().map(|a| &a[..]).collect::<Vec<_>>(), "ddrm gives --estimate sample, not map");
    let single = tune(&["--overwrite", "--hold-out"]);
    refused(&single.iter().map(|a| &a[..]).collect::<Vec<_>>(), "--hold-out needs at least two photos");
}

#[test]
fn the_paper_is_a_preset() {
    let f = Folder::new();
    let plan = |task| {
        let out = dmap(&["plan", "--model", "sd2", "--size", "512", "--task", task, "--preset", "paper", "--json"]);
        assert!(out.status.success(), "{}", text(&out));
        json(&out.stdout)
    };
    let sr8 = plan("sr8");
    // One pass and three times two at each of 500 levels; none of the six at the last.
    assert_eq!((&sr8["levels"], &sr8["passes"]), (&500.into(), &(500 * 7 - 6).into()));
    assert!(sr8["method"].as_str().unwrap().starts_with("dmap:k=3,step=published:4.8"), "{sr8}");
    assert!(plan("gaussian-blur")["method"].as_str().unwrap().contains("published:0.6"));
    let (photo, out) = (f.string("photos/0.png"), f.string("out"));
    refused(
        &["restore", &photo, "--task", "sr2", "--out", &out, "--preset", "paper", "--passes", "9"],
        "cannot be used",
    );
}

#[test]
fn seconds_are_a_number_of_passes() {
    let f = Folder::new();
    let (photo, out) = (f.string("photos/0.png"), f.string("out"));
    let restore = ["restore", &photo, "--task", "sr2", "--out", &out, "--seconds"];
    let with = |seconds| [&restore[..], &[seconds]].concat();
    let done = dmap(&with("2"));
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    let passes = said.split("2 s are ").nth(1).and_then(|s| s.split(' ').next()).and_then(|n| n.parse::<usize>().ok());
    let result = json(&std::fs::read(f.path("out/0/result.json")).unwrap());
    let passes = passes.unwrap_or_else(|| panic!("{said}"));
    assert!(result["steps"].as_u64().unwrap() as usize <= passes, "{said}");
    refused(&with("0.000001"), "one network pass takes");
    refused(&with("-1"), "");
    refused(&[&with("1")[..], &["--passes", "4"]].concat(), "cannot be used with");
}
