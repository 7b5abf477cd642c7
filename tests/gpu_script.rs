//! tools/gpu.sh over the stand-in for libcuda: what was measured before a step was killed comes
//! back.
#![cfg(all(feature = "emulate", target_os = "linux"))]

use std::path::Path;
use std::process::{Command, Output};

/// The script with these limits in seconds for the steps that time whole steps and ops.
fn script(out: &Path, steps: &str, ops: &str) -> Output {
    Command::new("tools/gpu.sh")
        .args([env!("CARGO_BIN_EXE_dmap").as_ref(), out.as_os_str(), "cuda:0".as_ref()])
        .envs([("DRY", "1"), ("SECONDS_IN_ALL", "100"), ("LIMIT_steps_adm", steps), ("LIMIT_ops", ops)])
        .envs([("LIMIT_nodes_adm", "3"), ("LIMIT_steps_sd2", "3"), ("LIMIT_nodes_sd2", "3")])
        .env("LD_LIBRARY_PATH", env!("DMAP_STAND_IN"))
        .output()
        .unwrap()
}

#[test]
fn rows_of_a_step_that_is_killed_survive() {
    let folder = tempfile::tempdir().unwrap();
    let has_both = |out: &Path| {
        let rows = std::fs::read_to_string(out.join("rows.jsonl")).unwrap_or_default();
        rows.contains("\"row\":\"op\"") && rows.contains("\"row\":\"step\"")
    };
    // A busy machine may not time a single op within four seconds.
    let mut out = folder.path().join("record");
    let mut run = script(&out, "12", "4");
    if !has_both(&out) {
        out = folder.path().join("second record");
        run = script(&out, "45", "12");
    }
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["clocks.txt", "log.txt", "record.tgz", "rows.jsonl"], "{said}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let (log, rows) = (read("log.txt"), read("rows.jsonl"));
    // 124: killed by its limit.
    assert!(log.contains("== ops ended with 124"), "{log}");
    let rows: Vec<serde_json::Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| rows.iter().filter(|r| r["row"] == kind).count();
    assert!(of("op") >= 1, "rows of the killed step: {rows:?}");
    assert!(of("step") >= 1 && of("machine") >= 2, "{rows:?}");
    assert!(log.contains("1 of 1 checks passed"), "{log}");
    // 2: a wrong flag.
    assert!(!log.contains("ended with 2\n"), "{log}");
    let listed = Command::new("tar").arg("tzf").arg(out.join("record.tgz")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 3);
}
