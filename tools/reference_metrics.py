"""Reference data of the metrics: PSNR and SSIM by scikit-image, LPIPS by PyTorch.

    pip install numpy scikit-image torch safetensors
    python tools/reference_metrics.py

Writes tests/data/metrics: pairs of pictures, what scikit-image says of them, and LPIPS of two
networks in the layout of AlexNet and VGG16 with few channels and random weights. The formula of
LPIPS is written out here, so that no published weights are needed.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

OUT = Path(__file__).parent.parent / "tests/data/metrics"
# name, height, width, border that is left out
PAIRS = [("odd", 23, 17, 0), ("border", 34, 41, 5), ("smallest", 11, 12, 0), ("picture", 40, 35, 3)]

ALEX = [(0, 11, 4, 2), "compared", 3, (3, 5, 1, 2), "compared", 3, (6, 3, 1, 1), "compared",
        (8, 3, 1, 1), "compared", (10, 3, 1, 1), "compared"]
VGG = [(0, 3, 1, 1), (2, 3, 1, 1), "compared", 2, (5, 3, 1, 1), (7, 3, 1, 1), "compared", 2,
       (10, 3, 1, 1), (12, 3, 1, 1), (14, 3, 1, 1), "compared", 2,
       (17, 3, 1, 1), (19, 3, 1, 1), (21, 3, 1, 1), "compared", 2,
       (24, 3, 1, 1), (26, 3, 1, 1), (28, 3, 1, 1), "compared"]
CHANNELS = {"alex": [4, 6, 8, 5, 5], "vgg": [3, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 6]}


def pair(rng, height, width):
    """A smooth picture with an edge, and the same with noise and another contrast."""
    y, x = np.mgrid[:height, :width]
    first = [0.5 + 0.3 * np.sin(0.3 * x + c) * np.cos(0.2 * y - c) + 0.15 * (x > width // 2) for c in range(3)]
    first = np.stack(first, -1).clip(0, 1)
    return first, (0.9 * first + 0.03 + rng.normal(0, 0.06, first.shape)).clip(0, 1)


def ssim(a, b, data_range, **more):
    return structural_similarity(a, b, data_range=data_range, gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False, **more)


def luma(p):
    return p @ np.array([0.299, 0.587, 0.114])


def of_pair(a, b, border):
    """a, b: f32 in [-1, 1], as the file stores them."""
    inner = lambda p: p[border:p.shape[0] - border, border:p.shape[1] - border].astype(np.float64)
    unit = [0.5 * inner(p) + 0.5 for p in (a, b)]
    eight = [np.round(255 * p).clip(0, 255) for p in unit]
    return {
        "border": border,
        "psnr_colour_8": peak_signal_noise_ratio(*eight, data_range=255),
        "psnr_colour_float": peak_signal_noise_ratio(*unit, data_range=1),
        "psnr_luma_8": peak_signal_noise_ratio(*map(luma, eight), data_range=255),
        "ssim_colour_8": ssim(*eight, 255, channel_axis=-1),
        "ssim_colour_float": ssim(*unit, 1, channel_axis=-1),
        "ssim_luma_8": ssim(*map(luma, eight), 255),
    }


def random_network(rng, parts, channels):
    """Weights under torchvision's names and those of LPIPS's channels."""
    features, lin, inputs = {}, {}, 3
    outputs = iter(channels)
    for part in parts:
        if part == "compared":
            lin[f"lin{len(lin)}.model.1.weight"] = rng.uniform(0, 1, (1, inputs, 1, 1))
        elif isinstance(part, tuple):
            index, kernel, _, _ = part
            n = next(outputs)
            scale = (2 / (inputs * kernel**2)) ** 0.5
            features[f"features.{index}.weight"] = rng.normal(0, scale, (n, inputs, kernel, kernel))
            features[f"features.{index}.bias"] = rng.normal(0.1, 0.1, n)
            inputs = n
    single = lambda tensors: {k: v.astype(np.float32) for k, v in tensors.items()}
    return single(features), single(lin)


def features_of(parts, weights, x):
    compared = []
    for part in parts:
        if part == "compared":
            compared.append(x)
        elif isinstance(part, int):
            x = F.max_pool2d(x, part, 2)
        else:
            index, _, stride, padding = part
            w, b = (torch.tensor(weights[f"features.{index}.{what}"]).double() for what in ("weight", "bias"))
            x = F.relu(F.conv2d(x, w, b, stride, padding))
    return compared


def lpips(parts, weights, lin, a, b):
    """a, b: (height, width, 3) in [-1, 1]."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    enter = lambda p: (((torch.tensor(p) - shift) / scale).permute(2, 0, 1)[None]).double()
    unit = lambda f: f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
    pairs = zip(features_of(parts, weights, enter(a)), features_of(parts, weights, enter(b)))
    total = 0
    for k, (f, g) in enumerate(pairs):
        w = torch.tensor(lin[f"lin{k}.model.1.weight"]).double()
        total += F.conv2d((unit(f) - unit(g)) ** 2, w).mean()
    return float(total)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(21)
    pictures, expected = {}, {"pairs": {}, "lpips": {}}
    for name, height, width, border in PAIRS:
        a, b = ((2 * p - 1).astype(np.float32) for p in pair(rng, height, width))
        pictures[f"{name}.a"], pictures[f"{name}.b"] = a, b
        expected["pairs"][name] = of_pair(a, b, border)
    a, b = pictures["picture.a"], pictures["picture.b"]
    eight = [(np.round((p.astype(np.float64) + 1) * 127.5) / 127.5 - 1).astype(np.float32) for p in (a, b)]
    full = [(2 * (p - p.min()) / (p.max() - p.min()) - 1).astype(np.float32) for p in (a, b)]
    for name, parts in (("alex", ALEX), ("vgg", VGG)):
        features, lin = random_network(rng, parts, CHANNELS[name])
        inner = [p[2:-2, 2:-2] for p in eight]
        expected["lpips"][name] = {
            "eight_bit": lpips(parts, features, lin, *eight),
            "min_max": lpips(parts, features, lin, *full),
            "border_2": lpips(parts, features, lin, *inner),
        }
        if name == "alex":  # one file with everything
            save_file({**features, **lin}, OUT / "alex.safetensors")
        else:  # two files, as people download them; in a whole network a classifier follows
            classifier = {"classifier.0.weight": torch.zeros(2, 6)}
            torch.save({**{k: torch.tensor(v) for k, v in features.items()}, **classifier}, OUT / "vgg16.pth")
            torch.save({k: torch.tensor(v) for k, v in lin.items()}, OUT / "vgg_lin.pth")
    save_file(pictures, OUT / "pictures.safetensors")
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
