#!/usr/bin/env bash
# The tests: makes NVRTC available where there is no CUDA toolkit (a PyPI wheel in .venv, no GPU needed), so that every kernel
# is compiled for every listed architecture, and runs everything, the kernels on the emulated device included.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/nvrtc.sh
cargo test --release --features emulate "$@"
