#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes, on a machine with Python and PyTorch, nvcc and no Rust:
#
#     tools/gpu.sh BINARY OUT [DEVICE]
#
# BINARY is a release build of dmap (x86-64, kernels embedded), OUT the folder for the record (benches/records/DATE-DEVICE). With DEVICE =
# emulated (a build with --features emulate) it is a dry run of the script on a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
binary=$1 out=$2 device=${3:-cuda:0}
mkdir -p "$out"
failed=0
step() { # name, seconds, command ...
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*" | tee -a "$out/commands.txt"
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    local code=$?
    tail -n 3 "$out/$name.txt"
    if [[ $code -ne 0 ]]; then
        echo "== $name ended with $code" | tee -a "$out/commands.txt"
        failed=1
    fi
}
{
    date -u
    "$binary" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>/dev/null || echo "no nvidia-smi"
    python3 -c 'import torch; print("torch", torch.__version__)' 2>/dev/null || echo "no torch"
} >"$out/machine.txt"

if [[ $device == emulated ]]; then
    step selftest 300 "$binary" selftest --device emulated --precision bf16
    step bench-bf16 300 "$binary" bench --device emulated --precision bf16 --shrink 32 --repeat 1 --size 16 --batch 1 --json
    exit $failed
fi
step selftest 60 "$binary" selftest --device "$device"
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
        step "$tool" 80 compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary" selftest --device "$device" --precision bf16
    fi
done
for precision in bf16 f32; do
    step "bench-$precision" 80 "$binary" bench --device "$device" --precision "$precision" --model adm-256 --batch 1,4 --json
done
# The latent step of Stable Diffusion 2 with random weights, and the same with its weights left on the host.
step bench-sd2 60 "$binary" bench --device "$device" --precision bf16 --model sd2 --size 512 --batch 1 --json
step bench-sd2-offload 40 "$binary" bench --device "$device" --precision bf16 --model sd2 --size 512 --batch 1 --memory 1GiB --offload --json
if python3 -c 'import torch' 2>/dev/null; then
    step peer-torch 120 python3 tools/peers/gpu_step.py
fi
exit $failed
