"""Reference data for tests/cse_training.rs: PyTorch trains the ControlNets that reference_cse.py made.

    python tools/reference_cse_training.py --data tests/data

Needs torch, diffusers and safetensors. Images, conditions and noise are the engine's random numbers and timesteps follow a formula,
so the files hold only results: the losses of fifty steps, all gradients of the first step, and how far each weight has moved.
The latent models compute in f64, the pixel model in f32, because its embedding of the timestep does.
"""

import argparse
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from adm import ADM, ControlNet
from reference_cse import EMBEDDING, PIXELS, steered, with_weights
from reference_latent import MODELS, philox_normal

SEED, STEPS, BATCH, ACCUMULATE, SIDE = 11, 50, 2, 2, 16
RATE, DECAY, CLIP = 1e-3, 0.01, 1.0
# Purposes for which random numbers are drawn: Draw::Start, Measurement, Encoder and Training of the engine.
IMAGE, CONDITION, ENCODER, TRAINING = 0, 2, 4, 6


def drawn(numbers, step, draw, shape):
    c, h, w = shape
    each = [philox_normal(SEED, number, step, draw, c * h * w).reshape(h, w, c) for number in numbers]
    return torch.from_numpy(np.stack(each)).permute(0, 3, 1, 2).contiguous()


class Pixels:
    """The pixel model of reference_cse.py."""

    def __init__(self, data):
        self.model = ADM(PIXELS)
        self.model.load_state_dict({k: v.float() for k, v in load_file(data / "adm_control.safetensors").items()})
        self.model.requires_grad_(False)
        self.control = ControlNet(self.model)
        self.control.load_state_dict({k: v.float() for k, v in load_file(data / "adm_control_cse.safetensors").items()})
        self.control.requires_grad_(True)
        self.bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        self.file = data / "adm_control_training.safetensors"

    def clean(self, images, numbers, step):
        return images

    def predicted(self, x, t, condition):
        x, t, condition = x.float(), t.float(), condition.float()
        return self.model(x, t, self.control(x, t, condition))

    def target(self, x0, noise, bar):
        return noise


class Latents:
    """A latent model of reference_latent.py with its ControlNet."""

    def __init__(self, data, name):
        m, folder = MODELS[name], data / f"latent_{name}"
        levels = len(m["vae"]["block_out_channels"])
        self.unet = with_weights(UNet2DConditionModel(**m["unet"]), folder / "unet").double()
        vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, **m["vae"])
        self.vae = with_weights(vae, folder / "vae").double()
        self.control = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=EMBEDDING[name])
        weights = load_file(folder / "controlnet" / "diffusion_pytorch_model.safetensors")
        self.control.load_state_dict({k: v.float() for k, v in weights.items()})
        self.control.double().requires_grad_(True)
        self.context = load_file(folder / "reference.safetensors")["prompt_embeds"].double()
        self.prediction = m["prediction"]
        schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.bars = schedule.alphas_cumprod.double().numpy()
        self.file = folder / "controlnet" / "training.safetensors"

    def clean(self, images, numbers, step):
        with torch.no_grad():
            code = self.vae.encode(images).latent_dist
            noise = drawn(numbers, step, ENCODER, code.mean.shape[1:])
            return self.vae.config.scaling_factor * (code.mean + code.std * noise)

    def predicted(self, x, t, condition):
        return steered(self.unet, self.control, x, t, self.context.expand(len(x), -1, -1), condition).sample

    def target(self, x0, noise, bar):
        return noise if self.prediction == "epsilon" else bar**0.5 * noise - (1 - bar) ** 0.5 * x0


def timestep(number, step):
    return (37 + 211 * number + 97 * step) % 1000


def loss_of(m, numbers, step):
    images = (0.5 * drawn(numbers, step, IMAGE, (3, SIDE, SIDE))).clamp(-1, 1)
    condition = 0.5 * drawn(numbers, step, CONDITION, (3, SIDE, SIDE))
    t = [timestep(number, step) for number in numbers]
    bar = torch.tensor([m.bars[k] for k in t], dtype=torch.float64)[:, None, None, None]
    x0 = m.clean(images, numbers, step)
    noise = drawn(numbers, step, TRAINING, x0.shape[1:])
    x = bar**0.5 * x0 + (1 - bar) ** 0.5 * noise
    predicted = m.predicted(x, torch.tensor(t, dtype=torch.float64), condition)
    return (predicted - m.target(x0, noise, bar)).square().mean()


def train(m):
    named = dict(m.control.named_parameters())
    first = {k: p.detach().clone() for k, p in named.items()}
    optimiser = torch.optim.AdamW(named.values(), lr=RATE, weight_decay=DECAY)
    losses, norms, data = [], [], {}
    for step in range(STEPS):
        optimiser.zero_grad()
        total = 0.0
        for k in range(ACCUMULATE):
            loss = loss_of(m, range(k * BATCH, (k + 1) * BATCH), step) / ACCUMULATE
            loss.backward()
            total += loss.item()
        if step == 0:
            data |= {f"gradient.{k}": p.grad.float() for k, p in named.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(named.values(), CLIP).item())
        losses.append(total)
        optimiser.step()
    moved = {f"moved.{k}": (p.detach() - first[k]).norm().float()[None] for k, p in named.items()}
    data |= moved | {"losses": torch.tensor(losses).float(), "norms": torch.tensor(norms).float()}
    print(m.file.name, f"loss {losses[0]:.4f} to {losses[-1]:.4f}, norm {norms[0]:.3f} to {norms[-1]:.3f}")
    save_file({k: v.contiguous() for k, v in data.items()}, m.file)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, type=pathlib.Path)
    args = p.parse_args()
    for m in (Pixels(args.data), Latents(args.data, "sd1"), Latents(args.data, "sd2")):
        train(m)
