//! Flags that would have no effect, and a terminal that takes nothing.

use crate::table::{Folder, check, dmap, row, text};
use std::process::{Command, Stdio};

#[test]
fn flags_that_a_method_or_task_would_ignore_are_refused() {
    let folder = Folder::new();
    let [photo, out] = [folder.picture("photo.png", 32, 32), folder.string("out")];
    let with = |input, method: &str, task: &str, flags: &[&str], code, phrase| {
        let base =
            ["restore", &photo, "--out", &out, "--steps", "2", "--overwrite", "--method", method, "--task", task];
        row(input, [&base[..], flags].concat(), code, phrase)
    };
    check(&[
        with("rate", "dmap", "sr2", &["--rate", "0.1"], 2, "--rate: dmap does not use it (resample, p2l do)"),
        with("inner", "dps", "sr2", &["--inner", "3"], 2, "--inner: dps does not use it"),
        with("consistency", "dmap", "sr2", &["--consistency", "1"], 2, "--consistency: dmap does not use it"),
        with("transpose", "dps", "sr2", &["--published-transpose"], 2, "--published-transpose: dps does not use it"),
        with("zeta", "unconditional", "sr2", &["--zeta", "1"], 2, "--zeta: unconditional does not use it"),
        with("whiten", "dmap", "sr2", &["--whiten", "0.3"], 2, "spectrum over frequencies); sr2 is none"),
        with("no whitening", "dmap", "sr2", &["--whiten", "0"], 0, "residual"),
        with("an old flag", "dmap", "sr2", &["--inner", "2"], 0, "write --method dmap:k=2"),
        with("a mixture", "dmap:k=2", "sr2", &["--zeta", "0.3"], 0, "write --method dmap:k=2,step=polyak:0.3"),
        with("a share of dsg", "dsg", "sr2", &["--zeta", "0.3"], 0, "write --method dsg:share=0.3"),
        with("a label", "dmap", "sr2", &["--label", "1"], 2, "--label 1: the model is not class-conditional"),
        with("a rate where it is used", "resample", "sr2", &["--rate", "0.01", "--inner", "2"], 0, "residual"),
    ]);
    let restore = ["restore", &photo, "--out", &out, "--task", "sr2", "--offload"];
    let eval = ["eval", "--out", &out, "--input", &photo];
    for (arguments, needed) in [
        (restore.to_vec(), "--memory"),
        ([&eval[..], &["--seed", "3"]].concat(), "--task"),
        ([&eval[..], &["--part", "unet", "--clip"]].concat(), "--clip"),
    ] {
        let o = dmap(&arguments);
        assert!(o.status.code() == Some(2) && text(&o).contains(needed), "{arguments:?}: {}", text(&o));
    }
}

#[test]
fn a_budget_of_passes_is_kept_or_refused() {
    let folder = Folder::new();
    let [photo, out] = [folder.picture("photo.png", 16, 16), folder.string("out")];
    let with = |input, flags: &str, code, phrase| {
        let base = ["restore", &photo, "--out", &out, "--overwrite", "--task", "sr2"];
        row(input, [&base[..], &flags.split(' ').collect::<Vec<_>>()].concat(), code, phrase)
    };
    check(&[
        with("a budget", "--method dps --passes 7", 0, "residual"),
        with("too few", "--method daps --passes 4", 2, "one noise level of daps takes 5 network passes, more than 4"),
        with("other levels than recorded", "--method dps --passes 9", 0, "residual"),
    ]);
    let result = std::fs::read_to_string(std::path::Path::new(&out).join("photo/result.json")).unwrap();
    let result: serde_json::Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["steps"], 4, "{result}");
    for (flags, words) in [("--passes 0", "0 is not in 1.."), ("--passes 8 --steps 4", "cannot be used with")] {
        let base = ["restore", &photo, "--out", &out, "--task", "sr2"];
        let o = dmap(&[&base[..], &flags.split(' ').collect::<Vec<_>>()].concat());
        assert!(o.status.code() == Some(2) && text(&o).contains(words), "{flags}: {}", text(&o));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let [photo, out, other] = [folder.picture("photo.png", 16, 16), folder.string("out"), folder.string("other")];
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for arguments in [
        &["tasks"][..],
        &["info", "weights/photo/photo.safetensors"],
        &["plan", "--model", "photo", "--size", "64"],
        &["restore", &photo, "--task", "sr2", "--steps", "2", "--out", &out],
        &["restore", &photo, "--task", "sr2", "--steps", "2", "--out", &other, "--json", "--overwrite"],
    ] {
        let program = || Command::new(env!("CARGO_BIN_EXE_dmap"));
        let o = program().args(arguments).stdout(full()).output().unwrap();
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert_eq!(o.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output: No space left") && !said.contains("panicked"), "{arguments:?}: {said}");
        // Nobody can be told, which is no reason to panic.
        let o = program().args(arguments).stdout(full()).stderr(full()).output().unwrap();
        assert_eq!(o.status.code(), Some(1), "{arguments:?}");
    }
}
