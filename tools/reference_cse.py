"""Reference data for tests/cse_reference.rs: ControlNets as conditional score estimators.

    python tools/reference_cse.py --data tests/data

Needs torch, diffusers, transformers and safetensors. The latent models are those that reference_latent.py made: they are read, and
`latent_sd1/controlnet` and `latent_sd2/controlnet` are written beside them, with ControlNets of diffusers. The pixel model
`adm_control.safetensors` and its ControlNet are those of adm.py. Weights are random and rounded to f16 before the evaluation, so
that the small files are exact.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from adm import ADM, PHOTO_CONFIG, ControlNet
from reference_latent import ANCESTRAL, INNER, MODELS, SHARE, START, STEPS, Chain, nhwc, philox_normal, randomise

# Channels of the levels of the condition's embedding: one level for every halving of the image.
EMBEDDING = {"sd1": (4, 6), "sd2": (4, 6, 8)}
# What a method is called in the file: the method, and the networks through which its gradient flows.
CHAINS = {"cse": ("unconditional", "both"), "dps": ("dps", "both"), "dmap": ("dmap", "both"), "dsg": ("dsg", "both"),
          "dps.prior": ("dps", "prior"), "dmap.prior": ("dmap", "prior"), "dsg.prior": ("dsg", "prior")}  # fmt: skip
SCALE = 0.7
PIXELS = dict(PHOTO_CONFIG, model_channels=16, channel_mult=[1, 2], attention_ds=[2], num_head_channels=16, norm_groups=8)
# Step sizes in pixel space; those of latents are reference_latent's. They move every result far beyond the test's limit.
ZETA = {"dps": 1.0, "dmap": 5.0}


def steered(unet, control, x, t, context, condition, scale=1.0):
    """The output of a UNet of diffusers with the residuals of a ControlNet."""
    skips, middle = control(x, t, context, condition, conditioning_scale=scale, return_dict=False)
    return unet(x, t, context, down_block_additional_residuals=skips, mid_block_additional_residual=middle)


class Steered(Chain):
    """A chain that follows the UNet with the residuals of a ControlNet. Where the gradient flows through the prior, it is that of the
    UNet alone."""

    def __init__(self, control, through, unet, vae, context, m, y, shape):
        super().__init__(unet, vae, context, m, y, shape)
        self.through, self.prior = through, unet
        self.both = self.unet = lambda x, t, context: steered(unet, control, x, t, context, y)

    def gradient(self, z, k, objective=None):
        self.unet = self.prior if self.through == "prior" else self.both
        gradient = super().gradient(z, k, objective)
        self.unet = self.both
        return gradient


def with_weights(model, folder):
    """The model with the weights of all files in a folder."""
    weights = {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
    model.load_state_dict(weights)
    return model.float().eval().requires_grad_(False)


def redrawn(control):
    """The ControlNet with random weights, those of the condition's embedding twice as large: what a result owes to the condition
    then is far beyond the test's limit."""
    randomise(control)
    for key, p in control.controlnet_cond_embedding.named_parameters():
        p.data *= 2.0 if key.endswith("weight") else 1.0
    return control


def share_of_condition(output):
    """Prints how much of an output, as a function of the condition's factor, is owed to the condition."""
    print(f"  owed to the condition: {((output(1.0) - output(0.0)).norm() / output(1.0).norm()).item():.1e}")


def write_control(path, control, metadata):
    tensors = {k: v.half().contiguous() for k, v in control.state_dict().items()}
    # A single key, because the order of several is not the same from run to run.
    save_file(tensors, path, metadata or {"format": "pt"})


def differences(chains, start):
    """Prints how far apart chains are that a mistake could make alike: it has to be far beyond the test's limit."""
    relative = lambda a, b: ((a - b).norm() / a.norm()).item()
    for a, b in (("cse", start), ("dps", "cse"), ("dmap", "cse"), ("dsg", "cse"), ("dps", "dps.prior"), ("dmap", "dmap.prior"),
                 ("dsg", "dsg.prior")):  # fmt: skip
        print(f"  {a} - {b}: {relative(chains[a], chains[b]):.1e}, norm {chains[a].norm():.1f}")


def latent(name, out, seed):
    torch.manual_seed(seed)
    m, folder = MODELS[name], out / f"latent_{name}"
    levels = len(m["vae"]["block_out_channels"])
    unet = with_weights(UNet2DConditionModel(**m["unet"]), folder / "unet")
    vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, **m["vae"])
    vae = with_weights(vae, folder / "vae")
    given = load_file(folder / "reference.safetensors")
    nchw = lambda key: given[key].permute(0, 3, 1, 2).contiguous()
    context, x, t, y = given["prompt_embeds"], nchw("unet.x").requires_grad_(), given["unet.t"], nchw("chain.y")
    control = redrawn(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING[name]))
    control.save_config(folder / "controlnet")
    write_control(folder / "controlnet" / "diffusion_pytorch_model.safetensors", control, {})

    factor = 2 ** (levels - 1)
    condition = 0.5 * torch.randn(2, 3, x.shape[2] * factor, x.shape[3] * factor)
    v = torch.randn_like(x)
    data = {"condition": nhwc(condition), "v": nhwc(v)}
    for key, scale in (("1", 1.0), ("0.7", SCALE)):
        output = steered(unet, control, x, t, context.expand(2, -1, -1), condition, scale).sample
        data |= {f"output.{key}": nhwc(output), f"vjp.{key}": nhwc(torch.autograd.grad(output, x, v)[0])}
    chains = {}
    for key, (method, through) in CHAINS.items():
        chain = Steered(control, through, unet, vae, context, m, y, (1, 4, 8, 8))
        chains[key] = chain.run(method)
        data[f"chain.{key}"] = nhwc(chains[key])
    chains["unconditional"] = Chain(unet, vae, context, m, y, (1, 4, 8, 8)).run("unconditional")
    print(name, sum(p.numel() for p in control.parameters()))
    differences(chains, "unconditional")
    share_of_condition(lambda factor: steered(unet, control, x, t, context.expand(2, -1, -1), factor * condition).sample)
    save_file(data, folder / "controlnet" / "reference.safetensors")


class PixelChain:
    """Ancestral sampling in VP coordinates with limited estimates, DPS, DMAP and DSG. The measurement is the whole image."""

    def __init__(self, model, control, y):
        self.model, self.control, self.y = model, control, y
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        self.t = [int(t) for t in np.round(np.linspace(0, 999, STEPS))]
        self.bars = bars[self.t]

    def noise(self, step, draw):
        n, c, h, w = self.y.shape
        return torch.from_numpy(philox_normal(7, 0, step, draw, c * h * w)).reshape(1, h, w, c).permute(0, 3, 1, 2)

    def x0(self, x, i, conditional=True):
        t = torch.tensor([float(self.t[i])])
        control = self.control(x.float(), t, self.y) if conditional and self.control else None
        eps = self.model(x.float(), t, control).double()
        return ((x - (1 - self.bars[i]) ** 0.5 * eps) / self.bars[i] ** 0.5).clamp(-1, 1)

    def gradient(self, x, i, through):
        x = x.detach().requires_grad_()
        residual = (self.x0(x, i, through == "both") - self.y).norm()
        return torch.autograd.grad(residual, x)[0]

    def run(self, method, through):
        x = self.noise(0, START)
        for i in reversed(range(STEPS)):
            bar, before = self.bars[i], self.bars[i - 1] if i > 0 else 1.0
            beta = 1 - bar / before
            with torch.no_grad():
                x0 = self.x0(x, i)
            mean = before**0.5 * beta / (1 - bar) * x0 + (1 - beta) ** 0.5 * (1 - before) / (1 - bar) * x
            spread = (beta * (1 - before) / (1 - bar)) ** 0.5
            noise = spread * self.noise(i, ANCESTRAL)
            after, radius = mean + noise, spread * x.numel() ** 0.5
            if method == "dps":
                after = after - ZETA["dps"] * self.gradient(x, i, through)
            elif method == "dsg":
                # Where every pixel is limited, there is no gradient, and the step is the ancestral one.
                g = self.gradient(x, i, through)
                turned = (1 - SHARE) * noise - SHARE * radius * g / (g.norm() + 1e-30)
                after = mean + radius * turned / (turned.norm() + 1e-30)
            elif method == "dmap" and i > 0:
                for _ in range(INNER):
                    # zeta is of sigma space, z = x / sqrt(before).
                    moved = after - ZETA["dmap"] * before * self.gradient(after, i - 1, through) - mean
                    after = mean + radius * moved / moved.norm()
            x = after
        return x


def pixels(out, seed):
    torch.manual_seed(seed)
    model = randomise(ADM(PIXELS))
    control = redrawn(ControlNet(model))
    write_control(out / "adm_control.safetensors", model, {"config": json.dumps(PIXELS)})
    write_control(out / "adm_control_cse.safetensors", control, {"config": json.dumps(control.config)})
    x, condition = torch.randn(2, 3, 12, 16, requires_grad=True), 0.5 * torch.randn(2, 3, 12, 16)
    t, v = torch.tensor([17.0, 730.0]), torch.randn(2, 3, 12, 16)
    data = {"x": nhwc(x), "t": t, "v": nhwc(v), "condition": nhwc(condition)}
    for key, scale in (("1", 1.0), ("0.7", SCALE)):
        output = model(x, t, [scale * h for h in control(x, t, condition)])
        data |= {f"output.{key}": nhwc(output), f"vjp.{key}": nhwc(torch.autograd.grad(output, x, v)[0])}
    y, chains = 0.5 * torch.randn(1, 3, 8, 8), {}
    data["chain.y"] = nhwc(y)
    for key, (method, through) in CHAINS.items():
        chains[key] = PixelChain(model, control, y).run(method, through)
        data[f"chain.{key}"] = nhwc(chains[key])
    chains["unconditional"] = PixelChain(model, None, y).run("unconditional", "both")
    print("pixels", *(sum(p.numel() for p in n.parameters()) for n in (model, control)))
    differences(chains, "unconditional")
    share_of_condition(lambda factor: model(x, t, control(x, t, factor * condition)))
    save_file(data, out / "adm_control_io.safetensors")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, type=pathlib.Path, help="the folder that reference_latent.py wrote into")
    args = p.parse_args()
    for seed, name in enumerate(MODELS):
        latent(name, args.data, seed)
    pixels(args.data, len(MODELS))
