"""Writes tests/data/nonlinear_blur.pth, a small generator of blur kernels (BKSE) with random weights, and
tests/data/nonlinear_blur.safetensors: a picture, an encoded kernel, and PyTorch's blurred picture and
its gradient.

    python tools/reference_nonlinear_blur.py

Needs torch and safetensors. The network has the structure and the names of the published checkpoints, of
which nf is 64, the kernel has 512 channels, and there are 10 and 20 residual blocks. Of the results every
STRIDE-th pixel is stored.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

NF, KERNEL, FRONT, BACK = 2, 3, 1, 2
STRIDE = 5


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(NF, NF, 3, 1, 1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class TwoConvolutions(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        convs = nn.Conv2d(inputs, outputs, 5, padding=2), nn.Conv2d(outputs, outputs, 5, padding=2)
        self.double_conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())

    def forward(self, x):
        return self.double_conv(x)


class Level(nn.Module):
    """A level of the U-Net with all levels below it; the lowest one takes the kernel."""

    def __init__(self, widths):
        super().__init__()
        outer, inner, *rest = widths
        self.outermost = len(widths) == 6
        conv = nn.Conv2d(outer, inner, 4, 2, 1, bias=False)
        self.down = nn.Sequential(conv) if self.outermost else nn.Sequential(nn.LeakyReLU(0.2), conv)
        beside = inner if rest else KERNEL
        up = [nn.ReLU(), TwoConvolutions(inner + beside, outer), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)]
        self.up = nn.Sequential(*up, *([nn.Tanh()] if self.outermost else []))
        self.submodule = Level([inner, *rest]) if rest else None

    def forward(self, x, kernel):
        down = self.down(x)
        # The published activation works in place, so the skip connection has passed it too.
        x = x if self.outermost else F.leaky_relu(x, 0.2)
        inside = self.submodule(down, kernel) if self.submodule else torch.cat([down, kernel], 1)
        up = self.up(inside)
        return up if self.outermost else torch.cat([up, x], 1)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        relu = nn.LeakyReLU(0.1)
        head = [nn.Conv2d(3, NF, 3, 1, 1), relu, nn.Conv2d(NF, NF, 3, 2, 1), relu, nn.Conv2d(NF, NF, 3, 2, 1), relu]
        self.feature_extractor = nn.Sequential(*head, *(Residual() for _ in range(FRONT)))
        self.adapter = nn.Module()
        self.adapter.model = Level([NF, NF, 2 * NF, 4 * NF, 8 * NF, 8 * NF])
        wide = 4
        tail = [nn.Conv2d(NF, 4 * NF, 3, 1, 1), nn.PixelShuffle(2), relu, nn.Conv2d(NF, 4 * wide, 3, 1, 1)]
        tail += [nn.PixelShuffle(2), relu, nn.Conv2d(wide, wide, 3, 1, 1), relu, nn.Conv2d(wide, 3, 3, 1, 1)]
        self.recon_trunk = nn.Sequential(*(Residual() for _ in range(BACK)), *tail)

    def forward(self, x, kernel):
        return x + self.recon_trunk(self.adapter.model(self.feature_extractor(x), kernel))


def main():
    torch.manual_seed(0)
    generator = Generator()
    with torch.no_grad():
        for p in generator.parameters():
            # Larger than PyTorch's, so that every part changes the result.
            p.mul_(1.7)
    torch.save(generator.state_dict(), "tests/data/nonlinear_blur.pth")
    h, w = 128, 256
    row, column = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    waves = [torch.sin(0.11 * row + 0.07 * k * column) + 0.4 * torch.cos(0.3 * column - 0.2 * row) for k in range(1, 4)]
    x = (0.8 * torch.stack(waves)).clamp(-1, 1)[None].requires_grad_()
    kernel = 1.2 * torch.randn(1, KERNEL, h // 128, w // 128, dtype=torch.float64)
    generator = generator.double()
    y = (2 * generator(x / 2 + 0.5, kernel) - 1).clamp(-1, 1)
    probe = torch.cos(0.05 * torch.arange(y.numel(), dtype=torch.float64)).reshape(1, h, w, 3).permute(0, 3, 1, 2)
    (y * probe).sum().backward()
    clipped, change = (y.abs() == 1).double().mean().item(), (y - x).abs().mean().item()
    print(f"{clipped:.3f} of the values are clipped, they change by {change:.3f}")
    last = lambda t: t.detach().float().permute(0, 2, 3, 1)
    some = lambda t: last(t)[:, ::STRIDE, ::STRIDE].contiguous()
    tensors = {"kernel": last(kernel).contiguous(), "y": some(y), "dx": some(x.grad)}
    save_file(tensors, "tests/data/nonlinear_blur.safetensors")


if __name__ == "__main__":
    main()
