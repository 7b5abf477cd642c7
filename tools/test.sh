#!/usr/bin/env bash
# Runs all tests, including the kernels on the emulated device. Without a CUDA toolkit it first
# installs NVRTC (a PyPI wheel in .venv, no GPU needed), so that every kernel is compiled for every
# listed architecture.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/nvrtc.sh
cargo test --release --features emulate "$@"
