"""Train the small latent diffusion model `weights/tiny-latent` from a folder of photographs, in diffusers layout.

    python tools/train_latent.py --photos train/ --test test/ --out weights/tiny-latent --vae-minutes 40 --unet-minutes 65

Needs torch, diffusers, numpy, pillow and safetensors. First the autoencoder (f = 4, mean absolute and squared error, a small KL term),
then the UNet on the latents of all photographs (epsilon prediction, cross attention to one learned token). Both keep an
exponential average of their weights and are stored as f16. A part that is there already is not trained again; with `--start DIR`
a part begins at the weights that DIR has of it.
"""

import argparse
import copy
import json
import math
import pathlib
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from train_prior import batch_of_crops, load_photos

VAE_CONFIG = dict(
    in_channels=3, out_channels=3, latent_channels=4, sample_size=256, norm_num_groups=16, act_fn="silu",
    block_out_channels=(32, 64, 96), layers_per_block=1,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip
UNET_CONFIG = dict(
    sample_size=64, in_channels=4, out_channels=4, block_out_channels=(48, 80, 112), layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32, attention_head_dim=(3, 5, 7), use_linear_projection=True, norm_num_groups=16,
)  # fmt: skip
SCHEDULER = dict(
    _class_name="EulerAncestralDiscreteScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
    beta_schedule="scaled_linear", prediction_type="epsilon", timestep_spacing="linspace",
)  # fmt: skip
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHA_BAR = torch.from_numpy(np.cumprod(1 - BETAS)).float()


class Training:
    """AdamW within a given time, with warm-up, cosine decay to zero, gradient clipping and average.

    The average is an exponential average of the weights.
    """

    def __init__(self, model, minutes, lr):
        self.model, self.minutes, self.lr = model, minutes, lr
        self.average = copy.deepcopy(model).eval()
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-3)
        self.start, self.step, self.smooth = time.time(), 0, None

    def done(self):
        return (time.time() - self.start) / (60 * self.minutes)

    def update(self, loss):
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * min(1.0, (self.step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * min(1, self.done())))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        decay = min(0.999, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for a, b in zip(self.average.parameters(), self.model.parameters()):
                a.lerp_(b, 1 - decay)
        self.smooth = loss.item() if self.smooth is None else 0.99 * self.smooth + 0.01 * loss.item()
        if self.step % 200 == 0:
            print(f"step {self.step} loss {self.smooth:.4f} at {100 * self.done():.0f} %", flush=True)
        self.step += 1


def write(folder, model, config, extra):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    config = dict(_class_name=type(model).__name__, **config, **extra)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read(cls, folder):
    config = json.loads((folder / "config.json").read_text())
    model = cls.from_config(config)
    model.load_state_dict({k: w.float() for k, w in load_file(folder / "diffusion_pytorch_model.safetensors").items()})
    return model.eval(), config


def train_vae(start, photos, weights, minutes, rng):
    t = Training(read(AutoencoderKL, start)[0].train() if start else AutoencoderKL(**VAE_CONFIG), minutes, 1e-3)
    while t.done() < 1:
        n, crop = (4, 128) if t.done() > 0.75 else (8, 64)
        x = batch_of_crops(photos, weights, n, crop, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = t.model.encode(x).latent_dist
            out = t.model.decode(posterior.sample()).sample.float()
        kl = posterior.kl().float().mean() / (posterior.mean[0].numel())
        error = out - x
        t.update(error.abs().mean() + 4 * error.square().mean() + 1e-4 * kl)
    return t.average


@torch.no_grad()
def latents(vae, photos, tile=256):
    """Mean and standard deviation of the posterior of every photo, (8, h/4, w/4).

    They are made by tiles, because attention over a whole photo is slow.
    """
    out = []
    for photo in photos:
        h, w = photo.shape[0] // 16 * 16, photo.shape[1] // 16 * 16
        x = photo[:h, :w].permute(2, 0, 1)[None].float() / 127.5 - 1
        code = torch.empty(8, h // 4, w // 4)
        for top in range(0, h, tile):
            for left in range(0, w, tile):
                posterior = vae.encode(x[:, :, top : top + tile, left : left + tile]).latent_dist
                here = torch.cat([posterior.mean[0], posterior.std[0]])
                code[:, top // 4 : top // 4 + here.shape[1], left // 4 : left // 4 + here.shape[2]] = here
        out.append(code)
    return out


def train_unet(start, codes, scale, minutes, rng):
    model = read(UNet2DConditionModel, start)[0].train() if start else UNet2DConditionModel(**UNET_CONFIG)
    model.register_parameter("token", torch.nn.Parameter(torch.randn(1, 1, UNET_CONFIG["cross_attention_dim"])))
    t = Training(model, minutes, 1e-3)
    while t.done() < 1:
        n, crop = (4, 64) if t.done() > 0.75 else (16, 32)
        area = np.array([math.sqrt(c.shape[1] * c.shape[2]) if min(c.shape[1:]) >= crop else 0.0 for c in codes])
        z = torch.empty(n, 4, crop, crop)
        for i, k in enumerate(rng.choice(len(codes), size=n, p=area / area.sum())):
            y, x = (rng.integers(s - crop + 1) for s in codes[k].shape[1:])
            c = codes[k][:, y : y + crop, x : x + crop]
            z[i] = scale * (c[:4] + c[4:] * torch.randn_like(c[4:]))
        # t is stratified over the batch, so that the loss of a step depends less on the drawn t.
        steps = torch.from_numpy(((np.arange(n) + rng.random(n)) / n * 1000).astype(np.int64))
        ab = ALPHA_BAR[steps][:, None, None, None]
        noise = torch.randn_like(z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(ab.sqrt() * z + (1 - ab).sqrt() * noise, steps, model.token.expand(n, -1, -1)).sample
        t.update((out.float() - noise).square().mean())
    return t.average


@torch.no_grad()
def report(vae, unet, token, scale, photos):
    """Reconstruction PSNR of the autoencoder, and denoising PSNR of latents per sigma.

    The peak of the latter is twice the standard deviation of the latents.
    """
    pixel, table = [], {s: [] for s in (0.1, 0.3, 1.0, 5.0)}
    for i, photo in enumerate(photos):
        y, x = (photo.shape[0] - 256) // 2, (photo.shape[1] - 256) // 2
        x0 = photo[y : y + 256, x : x + 256].permute(2, 0, 1)[None].float() / 127.5 - 1
        z = vae.encode(x0).latent_dist.mean
        pixel.append(10 * math.log10(4 / (vae.decode(z).sample.clamp(-1, 1) - x0).square().mean().item()))
        for sigma, row in table.items():
            t = int((((1 - ALPHA_BAR) / ALPHA_BAR).sqrt() - sigma).abs().argmin())
            ab = ALPHA_BAR[t]
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(i))
            zt = ab.sqrt() * scale * z + (1 - ab).sqrt() * noise
            z0 = (zt - (1 - ab).sqrt() * unet(zt, torch.tensor([t]), token).sample) / ab.sqrt()
            row.append(10 * math.log10(4 / (z0 - scale * z).square().mean().item()))
    mean = lambda v: round(sum(v) / len(v), 2)
    return mean(pixel), {s: mean(v) for s, v in table.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", required=True)
    p.add_argument("--test", required=True)
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--start", type=pathlib.Path)
    p.add_argument("--vae-minutes", type=float, default=40)
    p.add_argument("--unet-minutes", type=float, default=60)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photos = load_photos(args.photos)
    weights = np.array([math.sqrt(q.shape[0] * q.shape[1]) for q in photos], dtype=np.float64)
    if not (args.out / "vae" / "config.json").exists():
        vae = train_vae(args.start and args.start / "vae", photos, weights / weights.sum(), args.vae_minutes, rng)
        deviation = torch.cat([c[:4].flatten() for c in latents(vae, photos[::7])]).std().item()
        write(args.out / "vae", vae, VAE_CONFIG, {"scaling_factor": round(1 / deviation, 5)})
    vae, config = read(AutoencoderKL, args.out / "vae")
    scale = config["scaling_factor"]
    if not (args.out / "unet" / "config.json").exists():
        # Half-size copies, and every third photo as it is, because encoding all photos takes longer
        # than it gains.
        small = [p for i, p in enumerate(photos) if i % 2 == 1 or i % 6 == 0]
        average = train_unet(args.start and args.start / "unet", latents(vae, small), scale, args.unet_minutes, rng)
        token = average.token.detach().half()
        del average.token
        write(args.out / "unet", average, UNET_CONFIG, {})
        save_file({"prompt_embeds": token}, args.out / "prompt_embeds.safetensors")
    unet, _ = read(UNet2DConditionModel, args.out / "unet")
    token = load_file(args.out / "prompt_embeds.safetensors")["prompt_embeds"].float()
    (args.out / "scheduler").mkdir(exist_ok=True)
    (args.out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", SCHEDULER["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (args.out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(report(vae, unet, token, scale, load_photos(args.test, halves=False)))


if __name__ == "__main__":
    main()
