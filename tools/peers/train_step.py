"""One training step of a conditional score estimator of the shipped prior, in PyTorch and in dmap: time and peak memory.

    cargo build --release --benches
    python tools/peers/train_step.py [--size 64] [--batch 8] [--rounds 3] [--threads 1] [--dmap PATH_OF_THE_BENCH_BINARY]

The step is that of `dmap train-cse`: noise, both networks, the mean squared error, its gradients by the ControlNet's
weights, clipping, AdamW; f32, images made beforehand. PyTorch runs channels last. The two take turns, each in a process
of its own, whose peak resident memory is read when it ends. Needs torch and safetensors.
"""

import argparse
import statistics
import sys
import time

from evaluation import ROOT, compare, newest


def torch_side(a):
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT / "tools"))
    from adm import ADM, PHOTO_CONFIG, ControlNet

    torch.set_num_threads(a.threads)
    model = ADM(PHOTO_CONFIG)
    model.load_state_dict({k: v.float() for k, v in load_file(ROOT / "weights/photo/photo.safetensors").items()})
    model.requires_grad_(False)
    control = ControlNet(model).requires_grad_(True)
    model, control = (m.to(memory_format=torch.channels_last) for m in (model, control))
    optimiser = torch.optim.AdamW(control.parameters(), lr=1e-4)
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    x0, condition = (torch.randn(a.batch, 3, a.size, a.size).to(memory_format=torch.channels_last) for _ in range(2))

    def step():
        noise = torch.randn_like(x0)
        t = torch.randint(1000, (a.batch,))
        bar = bars[t][:, None, None, None]
        x = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
        loss = (model(x, t, control(x, t, condition)) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
        optimiser.step()

    times = []
    for i in range(a.repeat + 1):
        start = time.perf_counter()
        step()
        if i >= 1:
            times.append(time.perf_counter() - start)
    print(f"median {statistics.median(times):.4f} s (min {min(times):.4f}, max {max(times):.4f}), torch {torch.__version__}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dmap", default=None)
    p.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch_side:
        return torch_side(a)
    common = [f"--{name}={getattr(a, name)}" for name in ("size", "batch", "repeat")]
    sides = {
        "dmap": [a.dmap or newest("training"), *common],
        "PyTorch": [sys.executable, __file__, "--torch-side", *common, f"--threads={a.threads}"],
    }
    compare(sides, a.rounds, a.threads)


if __name__ == "__main__":
    main()
