//! Replays the corpus of every fuzz target: files of users, damaged and hostile ones, and all
//! inputs that once found a defect.

#[path = "../fuzz/src/allocation_limit.rs"]
mod allocation_limit;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time for one input.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn no_input_of_the_corpus_panics_or_takes_long_or_much_memory() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut wrong = Vec::new();
    for (name, target) in targets::TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("the corpus of {name}: {e}"));
        let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            // The text of a panic stands above the summary; an allocation that is too large ends
            // the process.
            let start = Instant::now();
            let ended = std::panic::catch_unwind(|| target(&bytes));
            let took = start.elapsed();
            if ended.is_err() || took > LONGEST {
                wrong.push(format!(
                    "{} {took:?}, {}",
                    file.display(),
                    if ended.is_err() { "panicked" } else { "slow" }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} inputs:\n{}", wrong.len(), wrong.join("\n"));
}
