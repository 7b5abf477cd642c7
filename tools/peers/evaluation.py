"""One evaluation of the shipped prior, forward and gradient, in PyTorch and in dmap: time and peak memory, in one run.

    cargo build --release --benches
    python tools/peers/evaluation.py [--size 256] [--rounds 3] [--dmap PATH_OF_THE_BENCH_BINARY]

PyTorch runs in f32, channels_last, with the gradient by autograd and frozen weights, on as many threads as dmap. The two
take turns, each in a process of its own, whose peak resident memory is read when it ends. Needs torch and safetensors.
"""

import argparse
import glob
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def torch_side(size, repeat, threads, compiled):
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT / "tools"))
    from adm import ADM, PHOTO_CONFIG

    torch.set_num_threads(threads)
    model = ADM(PHOTO_CONFIG)
    model.load_state_dict({k: v.float() for k, v in load_file(ROOT / "weights/photo/photo.safetensors").items()})
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model)
    torch.manual_seed(1)
    x = torch.randn(1, 3, size, size).to(memory_format=torch.channels_last)
    v = torch.randn(1, 3, size, size).to(memory_format=torch.channels_last)
    t = torch.tensor([300.0])
    times = []
    for i in range(repeat + 2):
        start = time.perf_counter()
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(model(leaf, t), leaf, v)
        if i >= 2:
            times.append(time.perf_counter() - start)
    print(f"median {statistics.median(times):.4f} s (min {min(times):.4f}, max {max(times):.4f}), torch {torch.__version__}")


def newest(bench):
    """The newest binary of a bench."""
    binaries = [b for b in glob.glob(str(ROOT / f"target/release/deps/{bench}-*")) if "." not in os.path.basename(b)]
    return max(binaries, key=os.path.getmtime, default=None) or sys.exit("no bench binary: run cargo build --release --benches first")


def compare(sides, rounds, threads):
    """Runs the two commands in turn; prints each run, the medians and the ratios."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    results = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            results[name].append(measured(command))
            print(f"{name:8} {results[name][-1][1]:7.0f} MiB peak, {results[name][-1][2]}", flush=True)
    seconds = {name: statistics.median(r[0] for r in rows) for name, rows in results.items()}
    memory = {name: statistics.median(r[1] for r in rows) for name, rows in results.items()}
    ratios = [a[0] / b[0] for a, b in zip(results["dmap"], results["PyTorch"])]
    print(f"time   dmap {seconds['dmap']:.4f} s, PyTorch {seconds['PyTorch']:.4f} s; ratio by rounds {', '.join(f'{r:.2f}' for r in ratios)}")
    print(f"memory dmap {memory['dmap']:.0f} MiB, PyTorch {memory['PyTorch']:.0f} MiB; ratio {memory['dmap'] / memory['PyTorch']:.2f}")


def measured(command):
    """Seconds (the median that the process prints) and peak resident MiB of one process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{out}")
    return float(re.search(r"median ([0-9.]+) s", out)[1]), usage.ru_maxrss / 1024, out.splitlines()[0]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--repeat", type=int, default=10)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--dmap", default=None)
    p.add_argument("--compile", action="store_true", help="torch.compile the model")
    p.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.torch_side:
        return torch_side(args.size, args.repeat, args.threads, args.compile)
    common = ["--size", str(args.size), "--repeat", str(args.repeat)]
    sides = {
        "dmap": [args.dmap or newest("evaluation"), *common],
        "PyTorch": [sys.executable, __file__, "--torch-side", *common, "--threads", str(args.threads)] + ["--compile"] * args.compile,
    }
    compare(sides, args.rounds, args.threads)


if __name__ == "__main__":
    main()
