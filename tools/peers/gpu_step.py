"""One evaluation of the 256x256 ADM UNet, forward and gradient at x, in PyTorch on a GPU: eager and compiled, bf16 and TF32.

    python tools/peers/gpu_step.py [--batch 1 4] [--seconds 100]

The same architecture and shapes as `dmap bench --model adm-256`, random weights, channels_last, frozen weights, gradient by autograd.
Prints one JSON line per configuration: median milliseconds and peak memory. Stops starting new ones when the seconds are used up.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from adm import ADM

CONFIG = dict(
    model_channels=256, channel_mult=[1, 1, 2, 2, 4, 4], num_res_blocks=2, attention_ds=[8, 16, 32], num_head_channels=64,
    norm_groups=32, in_channels=3, out_channels=6,
)


def measure(model, batch, dtype, repeat=10):
    x = torch.randn(batch, 3, 256, 256, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    v = torch.randn(batch, 6, 256, 256, device="cuda", dtype=dtype)
    t = torch.full((batch,), 300.0, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    times = []
    for i in range(repeat + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(model(leaf, t), leaf, v)
        torch.cuda.synchronize()
        if i >= 3:
            times.append(time.perf_counter() - start)
    return {"median_ms": 1e3 * statistics.median(times), "min_ms": 1e3 * min(times), "peak_mib": torch.cuda.max_memory_allocated() / 2**20}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    p.add_argument("--seconds", type=float, default=100)
    args = p.parse_args()
    started = time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for compiled in (False, True):
        for dtype in (torch.bfloat16, torch.float32):
            model = ADM(CONFIG).cuda().to(dtype).eval().requires_grad_(False).to(memory_format=torch.channels_last)
            # The timestep embedding is made in f32.
            model.time_embed.register_forward_pre_hook(lambda _, given, dtype=dtype: (given[0].to(dtype),))
            run = torch.compile(model) if compiled else model
            for batch in args.batch:
                if time.perf_counter() - started > args.seconds:
                    return
                row = {"torch": torch.__version__, "compiled": compiled, "dtype": str(dtype), "batch": batch}
                print(json.dumps(row | measure(run, batch, dtype)), flush=True)
            del model, run
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
