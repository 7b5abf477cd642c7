#!/usr/bin/env bash
# Builds a program for a machine with a GPU and without Rust: a stripped binary with the kernels of
# one chip, packed with gzip. Prints its size and that of the tracked files.
#
#     tools/pack.sh [ARCHITECTURE] [OUT]        (90a, target/pack/dmap: OUT and OUT.gz)
set -euo pipefail
cd "$(dirname "$0")/.."
architecture=${1:-90a} to=${2:-target/pack/dmap} most_mib=64
# Images of CUDA 13.0 load with every driver of CUDA 13. Images of a newer compiler have not been
# tried on an older driver.
nvrtc=target/pack/nvrtc
[[ -d $nvrtc ]] || python3 -m venv "$nvrtc"
"$nvrtc/bin/pip" install --quiet nvidia-cuda-nvrtc==13.0.88
DMAP_NVRTC=$(realpath "$nvrtc"/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13)
export DMAP_NVRTC
DMAP_CUDA_ARCHS=$architecture CARGO_TARGET_DIR=target/pack/build cargo build --release --locked
mkdir -p "$(dirname "$to")"
strip -o "$to" target/pack/build/release/dmap
gzip -kf "$to"
binary=$(stat -c %s "$to.gz")
tree=$(git ls-files -z | xargs -0 stat -c %s | awk '{ sum += $1 } END { print sum }')
echo "$to.gz: $((binary >> 20)) MiB; tracked files: $((tree >> 20)) MiB"
if ((binary + tree > most_mib << 20)); then
    echo "together more than $most_mib MiB: leave something out" >&2
    exit 1
fi
