"""What a GPU reaches in PyTorch's own kernels: copy, cuBLAS, cuDNN convolutions and SDPA at this project's shapes, norm with SiLU.

    python tools/peers/ceilings.py [--seconds 40]

Random data, bf16 and TF32, CUDA events around ten calls, the median of 20. Prints one JSON line per row: what "100 %" means on this card.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

# Batch, side, channels in, channels out of 3x3 convolutions of adm-256 and Stable Diffusion 2 at 512x512.
CONVOLUTIONS = [
    (1, 256, 256, 256), (1, 128, 256, 256), (1, 64, 512, 512), (1, 32, 512, 512), (1, 16, 1024, 1024), (1, 64, 320, 320), (1, 32, 640, 640),
    (1, 512, 128, 128),
]
# Batch, heads, tokens, channels of a head.
ATTENTIONS = [(1, 8, 1024, 64), (1, 5, 4096, 64), (1, 10, 1024, 64)]


def milliseconds(run, calls=10, repeat=20):
    """Median time of one call, by events around several."""
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times)


def rows(dtype):
    """Yields name, callable, operations and bytes of each row."""
    normal = lambda *shape: torch.randn(*shape, device="cuda", dtype=dtype)
    width = torch.finfo(dtype).bits // 8
    x, y = normal(1 << 28), normal(1 << 28)
    yield "copy 2^28 values", lambda: y.copy_(x), 0, 2 * width * x.numel()
    del x, y
    a, b = normal(8192, 8192), normal(8192, 8192)
    yield "product 8192^3", lambda: a @ b, 2 * 8192**3, 3 * width * 8192**2
    for n, side, c, out in CONVOLUTIONS:
        image = normal(n, c, side, side).to(memory_format=torch.channels_last)
        weight = (normal(out, c, 3, 3) / (9 * c) ** 0.5).to(memory_format=torch.channels_last)
        gradient = normal(n, out, side, side).to(memory_format=torch.channels_last)
        flops, size = 2 * n * side * side * 9 * c * out, width * (image.numel() + weight.numel() + gradient.numel())
        name = f"3x3, {n} x {side}x{side}, {c} to {out}"
        yield f"convolution {name}", lambda: F.conv2d(image, weight, padding=1), flops, size
        data = lambda: torch.ops.aten.convolution_backward(
            gradient, image, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
        )
        yield f"data gradient {name}", data, flops, size
    for n, heads, tokens, d in ATTENTIONS:
        q, k, v = (normal(n, heads, tokens, d).requires_grad_() for _ in range(3))
        o = F.scaled_dot_product_attention(q, k, v)
        g = torch.randn_like(o)
        flops, size = 4 * n * heads * tokens**2 * d, 4 * width * q.numel()
        name = f"{n} x {heads} heads of {d}, {tokens} tokens"
        yield f"attention {name}", lambda: F.scaled_dot_product_attention(q, k, v), flops, size
        reverse = lambda: torch.autograd.grad(o, (q, k, v), g, retain_graph=True)
        yield f"attention gradients {name}", reverse, 2.5 * flops, 2 * size
    image = normal(1, 256, 256, 256).to(memory_format=torch.channels_last)
    scale, shift = normal(256), normal(256)
    yield "group norm and SiLU, 256x256, 256 channels", lambda: F.silu(F.group_norm(image, 32, scale, shift)), 0, 2 * width * image.numel()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=40)
    seconds = p.parse_args().seconds
    started = time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for dtype in (torch.bfloat16, torch.float32):
        for name, run, flops, size in rows(dtype):
            if time.perf_counter() - started > seconds:
                return
            row = {"row": "ceiling", "name": name, "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__}
            try:
                ms = milliseconds(run)
                row |= {"ms": ms, "tflops": flops / ms / 1e9, "gigabytes_per_second": size / ms / 1e6}
            except RuntimeError as e:
                row["error"] = str(e)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
