"""Writes tests/data/operators.safetensors: a picture, and what PyTorch, deepinv and kornia make of
it.

    python tools/reference_operators.py

Needs torch, deepinv, kornia and safetensors. `x` is (1, h, w, 3) in [-1, 1]; the outputs are (1, h', w', c).
"""

import deepinv
import kornia
import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def main():
    torch.manual_seed(0)
    h, w = 26, 35
    row, column = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    waves = [torch.sin(0.31 * row + 0.17 * k * column) + 0.3 * torch.cos(0.9 * column - 0.4 * row) for k in range(1, 4)]
    x = (0.6 * torch.stack(waves) + 0.1 * torch.randn(3, h, w)).clamp(-1, 1)[None]
    last = lambda t: t.permute(0, 2, 3, 1).contiguous()
    tensors = {"x": last(x)}
    for factor in (2, 3, 4):
        size = (h // factor, w // factor)
        for name, antialias in (("pytorch", True), ("pytorch-aliased", False)):
            # With the scale given, the positions are those of a factor, whatever is left over.
            y = F.interpolate(x[..., : size[0] * factor, : size[1] * factor], size=size, mode="bicubic", antialias=antialias)
            tensors[f"sr-bicubic:factor={factor},like={name}"] = last(y)
    even = x[..., :26, :34]
    down = deepinv.physics.Downsampling(img_size=(3, 26, 34), filter="bicubic", factor=2, padding="circular")
    tensors["sr-bicubic:factor=2,like=deepinv"] = last(down.A(even))
    blur = deepinv.physics.Blur(filter=deepinv.physics.functional.gaussian_blur(psf_size=(15, 15), sigma=2.0), padding="valid")
    tensors["gaussian-blur:size=15,sigma=2,boundary=valid"] = last(blur.A(x))
    tensors["edge"] = last(kornia.filters.canny((x + 1) / 2)[0])
    save_file(tensors, "tests/data/operators.safetensors")


if __name__ == "__main__":
    main()
