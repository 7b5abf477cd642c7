"""Writes tests/data/operators.safetensors: a picture, and what PyTorch and kornia make of it.

    python tools/reference_operators.py

Needs torch, kornia and safetensors. `x` is (1, h, w, 3) in [-1, 1]; the outputs are (1, h', w', c).
"""

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
    tensors["edge"] = last(kornia.filters.canny((x + 1) / 2)[0])
    save_file(tensors, "tests/data/operators.safetensors")


if __name__ == "__main__":
    main()
