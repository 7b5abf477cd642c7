#!/usr/bin/env bash
# Fuzzes every reader of files and texts, one target after the other.
#
#     tools/fuzz.sh [SECONDS_PER_TARGET]
#
# Without an argument it takes about an hour. Inputs that are new to the committed corpus go to
# fuzz/target/corpus, and an input that fails goes to fuzz/artifacts. It needs cargo-fuzz
# (`cargo install cargo-fuzz`) and a C++ compiler. It runs on stable Rust, because it uses no
# sanitizer; the limit of an allocation is the fuzzers' own (fuzz/src/allocation_limit.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
TMPDIR=$(mktemp -d -p "$(test -w /dev/shm && echo /dev/shm || echo /tmp)")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
cargo fuzz build -s none
failed=0
for target in $(cargo fuzz list); do
    mkdir -p "fuzz/target/corpus/$target"
    echo "$target"
    cargo fuzz run -s none "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- -timeout=5 -rss_limit_mb=2048 \
        -max_total_time="${1:-240}" -print_final_stats=1 -verbosity=0 || failed=1
done
exit $failed
