"""Train the shipped prior `weights/photo/photo.safetensors` from a folder of photographs.

    python tools/train_prior.py --photos train/ --test test/ --out photo.safetensors --minutes 90

Needs torch, numpy, pillow and safetensors. Random crops (also of half-size copies) with horizontal flips, epsilon
prediction with the plain mean squared error, AdamW, a learning rate that warms up and then falls to zero over the
given time, and an exponential average of the weights. The last part of the run uses larger crops, so
that the model sees more context than 64 pixels. Prints the denoising PSNR over the test folder at the end.
"""

import argparse
import copy
import json
import math
import pathlib
import time

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adm import ADM, PHOTO_CONFIG

ALPHA_BAR = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))).float()


def load_photos(folder, halves=True):
    photos = []
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            continue
        image = Image.open(path).convert("RGB")
        sizes = [image.size] + ([(image.width // 2, image.height // 2)] if halves else [])
        for size in sizes:
            copy_ = image if size == image.size else image.resize(size, Image.LANCZOS)
            if min(copy_.size) >= 128:
                photos.append(torch.from_numpy(np.asarray(copy_).copy()))
    return photos


def batch_of_crops(photos, weights, n, crop, rng):
    out = torch.empty(n, 3, crop, crop)
    for i, k in enumerate(rng.choice(len(photos), size=n, p=weights)):
        photo = photos[k]
        y = rng.integers(photo.shape[0] - crop + 1)
        x = rng.integers(photo.shape[1] - crop + 1)
        c = photo[y : y + crop, x : x + crop].permute(2, 0, 1).float() / 127.5 - 1
        out[i] = c.flip(2) if rng.random() < 0.5 else c
    return out


@torch.no_grad()
def denoising_psnr(model, photos):
    """PSNR (peak 2) of the one-step posterior mean, per sigma on [-1,1].

    It is measured on the central 128x128 of each photo.
    """
    table = {}
    for sigma in (0.1, 0.3, 1.0, 5.0, 20.0):
        errors = []
        t = int((((1 - ALPHA_BAR) / ALPHA_BAR).sqrt() - sigma).abs().argmin())
        ab = ALPHA_BAR[t]
        for i, photo in enumerate(photos):
            y, x = (photo.shape[0] - 128) // 2, (photo.shape[1] - 128) // 2
            x0 = photo[y : y + 128, x : x + 128].permute(2, 0, 1)[None].float() / 127.5 - 1
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(i))
            xt = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
            x0hat = ((xt - (1 - ab).sqrt() * model(xt, torch.tensor([t]))) / ab.sqrt()).clamp(-1, 1)
            errors.append(10 * math.log10(4 / (x0hat - x0).square().mean().item()))
        table[sigma] = sum(errors) / len(errors)
    return table


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", required=True)
    p.add_argument("--test", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=90)
    p.add_argument("--lr", type=float, default=6e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--large-crop-share", type=float, default=0.3, help="last share of the time with 128-pixel crops")
    p.add_argument("--evaluate", help="only print the denoising PSNR of this file")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = ADM(PHOTO_CONFIG)
    test = load_photos(args.test, halves=False)
    if args.evaluate:
        model.load_state_dict({k: w.float() for k, w in load_file(args.evaluate).items()})
        print({s: round(v, 2) for s, v in denoising_psnr(model.eval(), test).items()})
        return
    photos = load_photos(args.photos)
    weights = np.array([math.sqrt(q.shape[0] * q.shape[1]) for q in photos], dtype=np.float64)
    weights /= weights.sum()
    average = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    start, step, smooth = time.time(), 0, None
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * done))
        n, crop = (4, 128) if done > 1 - args.large_crop_share else (16, 64)
        x0 = batch_of_crops(photos, weights, n, crop, rng)
        # t is stratified over the batch, so that the loss of a step depends less on the drawn t.
        t = torch.from_numpy(((np.arange(n) + rng.random(n)) / n * 1000).astype(np.int64))
        ab = ALPHA_BAR[t][:, None, None, None]
        noise = torch.randn_like(x0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, t)
        loss = (out.float() - noise).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters()):
                a.lerp_(b, 1 - decay)
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        if step % 200 == 0:
            print(f"step {step} loss {smooth:.4f} at {100 * done:.0f} %", flush=True)
        if step % 1000 == 999 or step == 200:
            save(average, args, step)
        step += 1
    save(average, args, step)
    print(step, "steps", {s: round(v, 2) for s, v in denoising_psnr(average, test).items()})


def save(model, args, step):
    config = dict(PHOTO_CONFIG, trained_crop=128 if args.large_crop_share else 64, trained_steps=step)
    temporary = args.out + ".partial"
    save_file(model.state_dict(), temporary, {"format": "pt", "architecture": "adm", "config": json.dumps(config)})
    pathlib.Path(temporary).rename(args.out)


if __name__ == "__main__":
    main()
