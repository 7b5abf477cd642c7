"""One evaluation of the 256x256 ADM UNet, forward and gradient at x, in PyTorch on a GPU: captured in a CUDA graph, bf16 and TF32.

    python tools/peers/gpu_step.py [--batch 1 4] [--seconds 40] [--compile]

The same architecture and shapes as `dmap bench --model adm-256`; frozen normal weights, so that no gradient is zero; gradient by
autograd; channels_last and contiguous, of which the faster counts. Prints one JSON line per configuration: median milliseconds by events
and peak memory. Stops starting new ones when the seconds are used up.
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


def randomise(model):
    """Normal weights of deviation 1 / sqrt(inputs): the published initialisation makes whole layers zero, and with them every gradient."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=max(p[0].numel(), 2) ** -0.5)


def captured(model, x, t, v):
    """A CUDA graph of the forward evaluation and the gradient at x."""
    leaf = x.detach().requires_grad_()
    evaluate = lambda: torch.autograd.grad(model(leaf, t), leaf, v)[0]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            evaluate()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        evaluate()
    return graph


def measure(model, batch, dtype, memory_format, repeat=20):
    x = torch.randn(batch, 3, 256, 256, device="cuda", dtype=dtype).to(memory_format=memory_format)
    v = torch.randn(batch, 6, 256, 256, device="cuda", dtype=dtype)
    t = torch.full((batch,), 300.0, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    graph = captured(model, x, t, v)
    times = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {"median_ms": statistics.median(times), "min_ms": min(times), "peak_mib": torch.cuda.max_memory_allocated() / 2**20}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    p.add_argument("--seconds", type=float, default=40)
    p.add_argument("--compile", action="store_true", help="by torch.compile, which takes a minute or two per configuration")
    args = p.parse_args()
    started = time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for dtype in (torch.bfloat16, torch.float32):
        for name, memory_format in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
            model = ADM(CONFIG).cuda()
            randomise(model)
            model = model.to(dtype).eval().requires_grad_(False).to(memory_format=memory_format)
            # The timestep embedding is made in f32.
            model.time_embed.register_forward_pre_hook(lambda _, given, dtype=dtype: (given[0].to(dtype),))
            run = torch.compile(model) if args.compile else model
            for batch in args.batch:
                if time.perf_counter() - started > args.seconds:
                    return
                row = {"row": "peer", "name": f"adm-256, batch {batch}, {name}", "torch": torch.__version__, "compiled": args.compile}
                row |= {"dtype": str(dtype).removeprefix("torch."), "batch": batch}
                try:
                    row |= measure(run, batch, dtype, memory_format)
                except RuntimeError as e:
                    row["error"] = str(e)
                print(json.dumps(row), flush=True)
            del model, run
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
