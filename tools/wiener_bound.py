"""How far any linear filter gets on the task `gaussian-blur`: the best Wiener filter of each photograph, chosen with the truth at hand.

    python tools/wiener_bound.py --photos test/

Needs numpy and pillow. Centre crops of 256 pixels, blur of sigma 3, noise 0.025. The photograph's spectrum is taken as c / f^2 or
c / f^3 with the c of a list that gives the best PSNR: no filter that has to guess c does better.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def best_wiener(photo, rng, sigma=3.0, noise=0.025, size=256):
    """(PSNR of the measurement, PSNR of the best filter); the boundary mirrors."""
    mirror = lambda x: np.concatenate([np.concatenate([x, x[::-1]]), np.concatenate([x, x[::-1]])[:, ::-1]], axis=1)
    f = np.fft.fftfreq(2 * size)
    response = np.exp(-2 * (np.pi * sigma * f) ** 2)
    response = (response[:, None] * response[None])[..., None]
    blurred = np.fft.ifft2(np.fft.fft2(mirror(photo), axes=(0, 1)) * response, axes=(0, 1)).real[:size, :size]
    y = blurred + noise * rng.standard_normal(blurred.shape)
    spectrum = np.fft.fft2(mirror(y), axes=(0, 1))
    square = (f[:, None] ** 2 + f[None] ** 2 + 1e-5)[..., None]
    best = -np.inf
    for c in np.geomspace(1e-7, 1e-3, 17):
        for power in (1.0, 1.5):
            inverse = noise**2 * square**power / c
            restored = np.fft.ifft2(spectrum * response / (response**2 + inverse), axes=(0, 1)).real[:size, :size]
            best = max(best, psnr(restored.clip(0, 1), photo))
    return psnr(y, photo), best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", required=True, type=pathlib.Path)
    rows = []
    for path in sorted(p.parse_args().photos.iterdir()):
        if path.suffix not in (".png", ".jpg"):
            continue
        x = np.asarray(Image.open(path).convert("RGB")).astype(np.float64) / 255
        top, left = (x.shape[0] - 256) // 2, (x.shape[1] - 256) // 2
        rows.append(best_wiener(x[top : top + 256, left : left + 256], np.random.default_rng(0)))
        print(f"{path.stem}: measurement {rows[-1][0]:.2f} dB, best filter {rows[-1][1]:.2f} dB")
    base, best = np.mean(rows, axis=0)
    print(f"mean: measurement {base:.2f} dB, best filter {best:.2f} dB, gain {best - base:.2f} dB")


if __name__ == "__main__":
    main()
