//! `dmap train-cse`: flags, photographs, and trainings that stop half-way.

use crate::table::{Folder, check, dmap, picture, row, text};
use dmap::weights::Checkpoint;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_control.safetensors");
const CLASSES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adm_a.safetensors");

/// A folder with three photos, one of which can't be read.
fn with_photos() -> Folder {
    let f = Folder::new();
    std::fs::create_dir(f.path("photos")).unwrap();
    for k in 0..2 {
        picture(40, 24).part(8 * k, 0, 24, 24).write_png(&f.path(&format!("photos/{k}.png"))).unwrap();
    }
    std::fs::write(f.path("photos/broken.png"), "no picture").unwrap();
    f
}

/// The arguments of a short training of a small model.
fn train(photos: &str, out: &str, more: &[&str]) -> Vec<String> {
    let base = ["train-cse", "--task", "sr2", "--photos", photos, "--out", out, "--model", SMALL, "--size", "16"];
    let short = ["--batch", "1", "--steps", "2", "--shots", "2", "--device", "cpu"];
    // A flag of `more` takes the place of the one here.
    let usual = base[1..].chunks(2).chain(short.chunks(2)).filter(|pair| !more.contains(&pair[0]));
    let all = base[..1].iter().chain(usual.flatten()).chain(more);
    all.map(|a| a.to_string()).collect()
}

#[test]
fn flags_and_photos_that_can_not_be_trained_with_are_refused_in_one_sentence() {
    let f = with_photos();
    let (photos, out, broken) = (f.string("photos"), f.string("out"), f.string("photos/broken.png"));
    let with = |more: &[&str]| train(&photos, &out, more);
    check(&[
        row("no photo that can be read", train(&broken, &out, &[]), 2, "none of the photos can be read"),
        row("a folder that is not there", train(&f.string("none"), &out, &[]), 2, "none of the photos can be read"),
        row("a size that the model does not take", with(&["--size", "17"]), 2, "this model takes multiples of 2"),
        row("no learning rate", with(&["--lr", "0"]), 2, "--lr 0: a number above 0 is expected"),
        row("a learning rate that is no number", with(&["--lr", "nan"]), 2, "--lr NaN"),
        row("a decay above 1", with(&["--decay", "2"]), 2, "--decay 2"),
        row(
            "a weight below that of the published loss",
            with(&["--weight-limit", "0.5"]),
            2,
            "--weight-limit 0.5: 1 or",
        ),
        row("zooms in the wrong order", with(&["--zoom", "2,1"]), 2, "--zoom 2,1: two numbers such as 1,2"),
        row("an unknown task", with(&["--task", "sharpen"]), 2, "unknown task"),
        row("a noise that is none", with(&["--noise", "loud"]), 2, "--noise loud"),
        row("classes", with(&["--model", CLASSES]), 2, "class-conditional models are not trained with"),
        row("nothing to resume", with(&["--resume"]), 2, "leave --resume out to start"),
        row("an estimator that is none", with(&["--start", &photos]), 2, "cse.safetensors"),
    ]);
    assert!(!f.path("out").exists(), "a refused run leaves no folder");
}

#[test]
fn a_training_says_what_is_wrong_with_photos_and_goes_on_only_with_its_own_settings() {
    let f = with_photos();
    let (photos, out) = (f.string("photos"), f.string("out"));
    let with = |more: &[&str]| train(&photos, &out, more);
    let done = dmap(&with(&["--shots", "5"]));
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    for phrase in ["broken.png", "1 photo can't be read", "there are 2 photos, fewer than 5 shots", "step 2, loss"] {
        assert!(said.contains(phrase), "{phrase}: {said}");
    }
    let estimator = Checkpoint::open(&f.path("out/cse.safetensors")).unwrap();
    let origin = &estimator.metadata["dmap_cse"];
    assert!(origin.contains("\"task\":\"sr2\"") && origin.contains("\"shots\":2"), "{origin}");
    let photo = f.string("photos/0.png");
    let restored = f.string("restored");
    let restore = |task: &str, method: &str| {
        let base = ["restore", &photo, "--model", SMALL, "--size", "16", "--out", &restored, "--steps", "2"];
        let more = ["--task", task, "--method", method, "--cse", &out].map(String::from);
        base.map(String::from).into_iter().chain(more).collect::<Vec<_>>()
    };
    check(&[
        row("again without a word", with(&["--shots", "5"]), 2, "continue it with --resume, or replace it"),
        row("other settings", with(&["--shots", "5", "--resume", "--lr", "0.1"]), 2, "lr is 0.00001 there, 0.1 here"),
        row("enough steps", with(&["--shots", "5", "--resume"]), 0, "has 2 steps already"),
        row("more steps", with(&["--shots", "5", "--resume", "--steps", "3"]), 0, "step 3, loss"),
        row("a new start", with(&["--shots", "2", "--overwrite", "--steps", "1"]), 0, "step 1, loss"),
        row("its task", restore("sr2", "cse"), 0, "residual"),
        row("another task", restore("sr4", "cse"), 2, "trained for the task sr2"),
    ]);
}

#[test]
fn ctrl_c_saves_and_a_full_disk_leaves_the_last_state() {
    let f = with_photos();
    let (photos, out) = (f.string("photos"), f.string("out"));
    let long = train(&photos, &out, &["--steps", "100000", "--json"]);
    let mut run = Command::new(env!("CARGO_BIN_EXE_dmap")).args(&long).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"step\":1"));
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    lines.for_each(drop);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let state = std::fs::read(f.path("out/training.safetensors")).unwrap();

    // A limit of the size of files stands for a full disk.
    let mut more = train(&photos, &out, &["--steps", "100000", "--save-every", "1", "--resume"]);
    more.insert(0, env!("CARGO_BIN_EXE_dmap").to_string());
    let script = format!("trap '' XFSZ; ulimit -f 64; exec '{}'", more.join("' '"));
    let o = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(o.status.code() == Some(1) && text(&o).contains("out/"), "{}", text(&o));
    assert!(std::fs::read(f.path("out/training.safetensors")).unwrap() == state);
    let left = std::fs::read_dir(f.path("out")).unwrap().count();
    assert_eq!(left, 2, "no partial file stays");
}
