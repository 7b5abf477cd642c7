//! `dmap analyse` as a user meets it.

use std::process::{Command, Output};

fn dmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmap")).arg("analyse").args(arguments).output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn an_analysis_prints_and_writes_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new");
    let flags = ["score-error", "--prior", "mixture", "--operator", "sample", "--signals", "3", "--points", "5"];
    let page = folder.path().join("page.html");
    let places = ["--out", out.to_str().unwrap(), "--report", page.to_str().unwrap()];
    let printed = dmap(&[&flags[..], &places].concat());
    assert!(printed.status.success(), "{}", text(&printed));
    for phrase in ["timestep", "Claim 1", "95 % interval", "score-error-mixture-sample.svg"] {
        assert!(text(&printed).contains(phrase), "{phrase}: {}", text(&printed));
    }
    let read =
        |ending: &str| std::fs::read_to_string(out.join(format!("score-error-mixture-sample.{ending}"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 5);
    assert_eq!(json["settings"]["signals"], 3);
    let csv = read("csv");
    assert!(csv.starts_with("timestep,sigma,unconditional,DPS 0.01,") && csv.lines().count() == 6, "{csv}");
    let svg = read("svg");
    assert!(svg.matches("<polyline").count() == 6 && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3, "nothing half written is left");
    let page = std::fs::read_to_string(page).unwrap();
    let phrases = [
        "Claim 1",
        "(max-width: 40rem)",
        "data:image/svg+xml;base64,",
        "timestep",
        "dmap analyse score-error",
        "</html>",
    ];
    assert!(phrases.iter().all(|phrase| page.contains(phrase)) && !page.contains("src=\"http"), "{page}");
    assert_eq!(page.matches("<tr>").count(), 6, "a head and five rows");
    // JSON on standard output is the same report.
    let again = dmap(&[&flags[..], &["--json"]].concat());
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&again.stdout).unwrap(), json);
}

#[test]
fn bad_input_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let rows: &[(&[&str], &str)] = &[
        (&["diversity", "--prior", "laplac"], "did you mean laplace?"),
        (&["diversity", "--prior", "foto"], "did you mean photo?"),
        (&["diversity", "--prior", "student"], "as in student:3"),
        (&["diversity", "--operator", "convolve"], "did you mean convolution?"),
        (&["diversity", "--samples", "1"], "--samples 1: diversity needs at least 2"),
        (&["score-error", "--signals", "1"], "--signals 1: score-error needs at least 2"),
        (&["score-mean", "--zeta", "0"], "it has to be above 0"),
        (&["diversity", "--levels", "1001"], "take 2 to 1000"),
        (&["diversity", "--out", file], "is a file; give a folder"),
        (&["diversity", "--report", "."], "it is a folder; give the name of an HTML file"),
        (&["diversity", "--cse", "photo"], "--cse is for networks"),
        (&["diversity", "--snr", "9999"], "take 0 to 60"),
        (&["score-error", "--zeta", "-1"], "it has to be above 0"),
        (&["score-mean", "--dps-zeta", "1"], "--dps-zeta is for diversity and calibration"),
        (&["diversity", "--zeta", "1"], "--zeta is for score-error and score-mean"),
        (&["calibration", "--prior", "photo"], "calibration needs a prior whose posterior is known"),
        (&["score-error", "--prior", "photo"], "--photo is missing"),
        (&["score-error", "--prior", "photo", "--operator", "sr"], "sr"),
        (&["score-error", "--prior", "photo", "--snr", "20"], "--snr is for priors with a known posterior"),
        (&["score-error", "--prior", "photo", "--photo", "none.png"], "none.png"),
    ];
    for (arguments, phrase) in rows {
        let out = dmap(arguments);
        let said = text(&out);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(phrase) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn ctrl_c_ends_an_analysis_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new");
    let flags = ["analyse", "calibration", "--prior", "laplace", "--signals", "1000", "--out", out.to_str().unwrap()];
    let mut child = Command::new(env!("CARGO_BIN_EXE_dmap")).args(flags).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(&out).map_or(0, |entries| entries.count()), 0);
}
