#!/usr/bin/env bash
# Installs the NVRTC wheel into .venv unless the build finds NVRTC already. Without a network the
# build goes on, and kernels are compiled at first use.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -n "${DMAP_NVRTC:-}" || -d "${CUDA_HOME:-/usr/local/cuda}/lib64" ]] || compgen -G ".venv/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so*" >/dev/null; then
    exit 0
fi
python3 -m venv .venv
.venv/bin/pip install --quiet nvidia-cuda-nvrtc && touch build.rs || echo "NVRTC could not be installed: the kernels are not compiled for GPUs in this run" >&2
