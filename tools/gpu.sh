#!/usr/bin/env bash
# Runs everything that needs a GPU in one call of 390 seconds. The machine has nvcc, Python and
# PyTorch; it needs no Rust.
#
#     tools/gpu.sh BINARY OUT [DEVICE]
#
# BINARY is a release build of dmap (tools/pack.sh makes one for one chip). OUT is the folder for
# the record. Measurements come before sanitizers. The time that is left goes to each step in turn,
# so that the last steps are cut and not the first. OUT gets four files: log.txt, rows.jsonl (one
# JSON object per measured row), clocks.txt, and record.tgz. The last is an archive of the other
# three and is written whatever happens.
#
# Variables: SECONDS_IN_ALL (390) is the time of the call, and LIMIT_<step> the seconds of one step.
# DRY=1 is a rehearsal with tiny shapes, on any device.
set -uo pipefail
cd "$(dirname "$0")/.."
binary=$1 out=$2 device=${3:-cuda:0}
mkdir -p "$out"
log=$out/log.txt rows=$out/rows.jsonl clocks=$out/clocks.txt
: >"$log" >"$rows" >"$clocks"
end=$((SECONDS + ${SECONDS_IN_ALL:-390})) failed=0
small=() tiny_selftest=() large=(--large) pixel=(--model adm-256) latent=(--model sd2 --size 512)
if [[ -n "${DRY:-}" ]]; then
    small=(--shrink 64 --repeat 1 --levels 4) tiny_selftest=(--only "scale (2, 3")
    large=(--large --shrink 16 --only norm)
    pixel=(--model tests/data/adm_a.safetensors --size 16) latent=(--model tests/data/latent_sd2 --size 16)
fi

finish() {
    kill "${background[@]}" 2>/dev/null
    sleep 0.3 # tee and grep may not have written everything yet
    echo "== ended after $SECONDS s" >>"$log"
    tar czf "$out/record.tgz" -C "$out" log.txt rows.jsonl clocks.txt
    grep -E '^(==|ok |FAILED|[0-9]+ of )' "$log" | grep -v '^ok ' | tail -n 40
    tail -n 20 "$rows" | cut -c1-240
}
background=()
trap finish EXIT

# NAME SECONDS COMMAND ...: the output goes into the log, and its JSON objects into the rows.
step() {
    local name=$1 limit=$2 left=$((end - SECONDS - 8)) own=LIMIT_${1//-/_}
    shift 2
    limit=${!own:-$limit}
    if ((left < 3)); then
        echo "== $name: no time is left" >>"$log"
        return 1
    fi
    echo "== $name, at most $((limit < left ? limit : left)) s at $SECONDS s: $*" >>"$log"
    timeout -k 5 $((limit < left ? limit : left)) "$@" > >(tee >(grep --line-buffered '^{' >>"$rows") >>"$log") 2>>"$log"
    local code=$?
    if ((code != 0)); then
        echo "== $name ended with $code" >>"$log"
        failed=1
    fi
    return $code
}
bench() { # NAME SECONDS FLAGS ...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$binary" bench --device "$device" --json "${small[@]}" "$@"
}
selftest() { # NAME SECONDS FLAGS ...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$binary" selftest --device "$device" "${tiny_selftest[@]}" "$@"
}

# Record the build and the machine to which the numbers belong.
{
    date -u
    "$binary" --version
    sha256sum "$binary"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit,temperature.gpu --format=csv || echo "no nvidia-smi"
    ldconfig -p | grep libcuda
} >>"$log" 2>&1
if command -v nvidia-smi >/dev/null; then
    nvidia-smi dmon -s puct -d 1 >"$clocks" 2>&1 &
    background+=($!)
fi
if command -v nvcc >/dev/null; then
    nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o "$out/probes" tools/probes.cu >>"$log" 2>&1 &
    compiler=$!
    background+=($compiler)
fi

# Does anything run? If not, load all kernels at the start; if that fails too, compile them here.
runs=1
if ! selftest selftest-bf16 20 --precision bf16; then
    export CUDA_MODULE_LOADING=EAGER
    if ! selftest selftest-eager 20 --precision bf16; then
        export DMAP_IMAGES=source
        selftest selftest-source 60 --precision bf16 || runs=0
    fi
fi
# The kernels that do most of the work also take small tensors if the chip seems to have two
# multiprocessors.
DMAP_MULTIPROCESSORS=2 selftest selftest-few 40
for precision in f16 f32 f32-strict; do
    selftest "selftest-$precision" 20 --precision "$precision"
done
step selftest-large 40 "$binary" selftest --device "$device" "${large[@]}"
# Up to two failures are examined closely: which kernel, which address.
grep '^FAILED' "$log" | sed -E 's/^FAILED +([a-z0-9-]+) +(.{40}).*/\1;\2/; s/ +$//' | sort -u | head -n 2 | while IFS=';' read -r precision name; do
    DMAP_STEPWISE=1 step "stepwise" 25 "$binary" selftest --device "$device" --precision "$precision" --only "$name"
    if command -v compute-sanitizer >/dev/null; then
        step memcheck-failed 25 compute-sanitizer --tool memcheck "$binary" selftest --device "$device" --precision "$precision" --only "$name"
    fi
done

python=$(command -v python3)
has_torch() { "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; }
if has_torch; then
    step ceilings 45 "$python" tools/peers/ceilings.py
fi
if ((runs)); then
    bench steps-adm 40 --precision bf16 "${pixel[@]}" --batch 1,4 --only steps
    bench nodes-adm 25 --precision bf16 "${pixel[@]}" --batch 1 --only nodes
    bench steps-sd2 30 --precision bf16 "${latent[@]}" --batch 1 --only steps
    bench nodes-sd2 25 --precision bf16 "${latent[@]}" --batch 1 --only nodes
fi
[[ -n "${compiler:-}" ]] && wait "$compiler"
[[ -x "$out/probes" ]] && step probes 30 "$out/probes"
rm -f "$out/probes"
((runs)) && bench ops 30 --precision bf16 --only ops
if has_torch; then
    step peer 45 "$python" tools/peers/gpu_step.py --batch 1 4
fi
if ((runs)) && command -v ncu >/dev/null; then
    for kernel in conv_mma_bf16_128 attention group_norm; do
        step "ncu-$kernel" 15 ncu --set basic --clock-control none --launch-count 1 -k "regex:$kernel" \
            "$binary" bench --device "$device" --precision bf16 --only ops --repeat 1
    done
fi
if ((runs)) && command -v compute-sanitizer >/dev/null; then
    for tool in synccheck racecheck; do
        DMAP_MULTIPROCESSORS=2 step "$tool" 30 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$binary" selftest --device "$device" --precision bf16 --only "conv 3x3/1 (1, 30, 15, 104)"
    done
fi
exit $failed
