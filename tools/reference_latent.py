"""Reference data for tests/latent_reference.rs, made by the modules and schedulers of diffusers and transformers.

    python tools/reference_latent.py --out tests/data

Needs torch, diffusers, transformers and safetensors. Two small models with random weights in diffusers layout: `latent_sd1` has the
shape of Stable Diffusion 1.x (convolutional projections, one number of heads, quick GELU), `latent_sd2` that of 2.x (linear
projections, heads per level, GELU, v-prediction). Weights are rounded to f16 before the evaluation, so that the small files are exact.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNET = dict(in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4, cross_attention_dim=24)
MODELS = {
    "sd1": dict(
        unet=dict(UNET, block_out_channels=[16, 32], attention_head_dim=2, use_linear_projection=False, layers_per_block=2,
                  down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]),
        vae=dict(block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, latent_channels=4),
        act="quick_gelu", prediction="epsilon", zeta=100.0, consistency=0.3, rates=dict(resample=0.05, p2l=100.0, daps=0.02),
    ),
    "sd2": dict(
        unet=dict(UNET, block_out_channels=[16, 24, 32], attention_head_dim=[1, 3, 4], use_linear_projection=True,
                  down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
                  up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
        vae=dict(block_out_channels=[8, 12, 16], layers_per_block=2, norm_num_groups=4, latent_channels=4),
        act="gelu", prediction="v_prediction", zeta=0.8, consistency=30.0, rates=dict(resample=0.05, p2l=2.0, daps=0.02),
    ),
}  # fmt: skip
# zeta and the other settings make every method move the result far beyond the test's limit.
STEPS = 5
SHARE, INNER = 0.2, 2
# DAPS: the first sigma, the one that its ODE ends at, and tau.
FROM, END, TAU = 10.0, 0.001, 0.5
# Purposes for which the engine draws noise.
START, ANCESTRAL, ENCODER, TRAVEL, ESTIMATE, ROUND = 0, 1, 4, 5, 0x100, 1 << 16


def randomise(model):
    """Draws every weight anew, because layers that start as zero would hide whole branches."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            scale = 0.1 if p.dim() == 1 else p[0].numel() ** -0.5
            is_norm = "norm" in key and key.endswith("weight")
            p.copy_((torch.randn_like(p) * scale + (1.0 if is_norm else 0.0)).half().float())
    return model.eval().requires_grad_(False)


def write_part(folder, model, config, file="diffusion_pytorch_model", shards=1):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
    if shards == 1:
        save_file(tensors, folder / f"{file}.safetensors", {"format": "pt"})
    else:
        keys, weight_map = sorted(tensors), {}
        for i in range(shards):
            name = f"{file}-{i + 1:05}-of-{shards:05}.safetensors"
            save_file({k: tensors[k] for k in keys[i::shards]}, folder / name, {"format": "pt"})
            weight_map.update({k: name for k in keys[i::shards]})
        (folder / f"{file}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(dict(_class_name=type(model).__name__, **config), indent=2) + "\n")


def philox_normal(seed, image, step, draw, count):
    """The engine's noise: Philox4x32-10 of counter (block, image, step, draw) and Box-Muller."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    c = [block, *(np.full_like(block, v) for v in (image, step, draw))]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        hi = lambda v: v >> np.uint64(32)
        c = [hi(b) ^ c[1] ^ np.uint64(k[0]), b & low, hi(a) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    u = [((v >> np.uint64(8)).astype(np.float64) + 0.5) / 2**24 for v in c]
    pairs = []
    for a, b in ((u[0], u[1]), (u[2], u[3])):
        radius = np.sqrt(-2 * np.log(a))
        pairs += [radius * np.cos(2 * np.pi * b), radius * np.sin(2 * np.pi * b)]
    return np.stack(pairs, 1).reshape(-1)[:count]


class Chain:
    """Euler ancestral in sigma space, with DPS and DMAP as published for latent models."""

    def __init__(self, unet, vae, context, m, y, shape):
        self.unet, self.vae, self.context, self.m, self.y, self.shape = unet, vae, context, m, y, shape
        self.prediction = prediction = m["prediction"]
        s = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                            prediction_type=prediction, timestep_spacing="linspace")  # fmt: skip
        s.set_timesteps(STEPS)
        self.t, self.sigmas = s.timesteps, s.sigmas.double()
        self.training_sigmas = ((1 - s.alphas_cumprod) / s.alphas_cumprod).double().sqrt().numpy()

    def noise(self, step, draw):
        n, c, h, w = self.shape
        return torch.from_numpy(philox_normal(7, 0, step, draw, c * h * w)).reshape(1, h, w, c).permute(0, 3, 1, 2)

    def z0(self, z, k):
        return self.denoised(z, self.sigmas[k], self.t[k])

    def denoised(self, z, sigma, t):
        out = self.unet((z / (sigma**2 + 1) ** 0.5).float(), torch.as_tensor(t, dtype=torch.float32), self.context).sample.double()
        if self.prediction == "epsilon":
            return z - sigma * out
        return out * (-sigma / (sigma**2 + 1) ** 0.5) + z / (sigma**2 + 1)

    def residual(self, z0):
        return (self.vae.decode((z0 / self.vae.config.scaling_factor).float()).sample - self.y).double().norm()

    def gradient(self, z, k, objective=None):
        z = z.detach().requires_grad_()
        z0 = self.z0(z, k)
        return torch.autograd.grad((objective or self.residual)(z0), z)[0]

    def lgd(self, k):
        """The mean of the residuals of INNER samples around the estimate."""
        r = (self.sigmas[k] ** 2 / (1 + self.sigmas[k] ** 2)) ** 0.5
        samples = [self.noise(STEPS - 1 - k, ESTIMATE + j) for j in range(INNER)]
        return lambda z0: sum(self.residual(z0 + r * n) for n in samples) / INNER

    def psld(self, k):
        """The operator is the identity, and so is its adjoint."""
        scale, n = self.vae.config.scaling_factor, self.noise(STEPS - 1 - k, ENCODER)

        def objective(z0):
            image = self.vae.decode((z0 / scale).float()).sample
            corrected = image + (self.y - image)
            code = self.vae.encode(corrected).latent_dist
            distance = (scale * (code.mean + code.std * n) - z0).norm()
            return (image - self.y).double().norm() + self.m["consistency"] * distance

        return objective

    def stsl(self, k, p):
        """Residual, and an estimate of the trace of the score's Jacobian, in VP coordinates."""
        n, sigma = self.noise(STEPS - 1 - k, TRAVEL + ROUND * p), self.sigmas[k]
        bar = 1 / (1 + sigma**2)

        def objective(z):
            z0, moved = self.z0(z, k), self.z0(z + n / bar**0.5, k)
            score = lambda x, x0: (bar**0.5 * x0 - x) / (1 - bar)
            x = bar**0.5 * z
            return self.residual(z0) + self.m["consistency"] * (n * (score(x + n, moved) - score(x, z0))).mean()

        return objective

    def move_text(self, z, k):
        for _ in range(INNER):
            context = self.context.detach().requires_grad_()
            self.context = context
            loss = self.residual(self.z0(z, k)) ** 2 / self.y.numel()
            self.context = (context - self.m["rates"]["p2l"] * torch.autograd.grad(loss, context)[0]).detach()

    def resample(self, z, k):
        """z of level k + 1, after the DPS step at level k."""
        bar, before = 1 / (1 + self.sigmas[k] ** 2), 1 / (1 + self.sigmas[k + 1] ** 2)
        with torch.no_grad():
            code = self.z0(z, k + 1)
        code = code.detach().requires_grad_()
        optimiser = torch.optim.AdamW([code], lr=self.m["rates"]["resample"])
        for _ in range(INNER):
            optimiser.zero_grad()
            (self.residual(code) ** 2 / self.y.numel()).backward()
            optimiser.step()
        s2 = 40 * (1 - before) / (1 - bar) * (1 - bar / before)
        x = before**0.5 * z
        x = (s2 * before**0.5 * code.detach() + (1 - before) * x) / (s2 + 1 - before)
        x = x + self.noise(STEPS - 1 - k, TRAVEL) * (1 / (1 / s2 + 1 / (1 - before))) ** 0.5
        return x / before**0.5

    def timestep(self, sigma):
        """The fractional timestep of sigma, by linear interpolation of the training schedule's sigmas."""
        return np.interp(sigma, self.training_sigmas, np.arange(len(self.training_sigmas)))

    def daps(self):
        """DAPS with Langevin dynamics, in VE coordinates: FROM to 0.1 in STEPS levels and 0, the ODE in INNER Euler steps to END."""
        power = lambda a, b, count: (a ** (1 / 7) + np.linspace(0, 1, count) * (b ** (1 / 7) - a ** (1 / 7))) ** 7
        levels = [*power(FROM, 0.1, STEPS + 1)[:-1], 0.0]
        z = levels[0] * self.noise(0, START)
        for k in range(STEPS):
            ode = power(levels[k], END, INNER + 1)
            x0 = z
            with torch.no_grad():
                for sigma, to in zip(ode, ode[1:]):
                    x0 = to / sigma * x0 + (1 - to / sigma) * self.denoised(x0, sigma, self.timestep(sigma))
            x, level = x0, STEPS - 1 - k
            rate = self.m["rates"]["daps"] * (1 + k / (STEPS + 1) * (0.01 - 1))
            for r in range(INNER):
                x = x.detach().requires_grad_()
                # The published code limits this gradient.
                g = torch.autograd.grad(self.residual(x) ** 2, x)[0].clamp(-1, 1)
                score = -g / TAU**2 + (x0 - x) / levels[k] ** 2
                x = x + rate * score + (2 * rate) ** 0.5 * self.noise(level, ANCESTRAL + ROUND * r)
            z = x.detach() + levels[k + 1] * self.noise(level, TRAVEL)
        return z

    def run(self, method):
        if method == "daps":
            return self.daps()
        text = self.context
        z = self.sigmas[0] * self.noise(0, START)
        for k in range(STEPS):
            level = STEPS - 1 - k
            sigma, to = self.sigmas[k], self.sigmas[k + 1]
            passes = INNER if method == "freedom" and 0.4 * STEPS <= level < 0.7 * STEPS else 1
            for p in range(passes):
                if p > 0:
                    z = z + (sigma**2 - to**2) ** 0.5 * self.noise(level, TRAVEL + ROUND * p)
                if method == "p2l" and k == 0:
                    self.move_text(z, k)
                z = self.step(method, z, k, level, sigma, to, p)
            if method == "resample" and 1 <= level <= 3:
                z = self.resample(z, k)
        self.context = text
        return z

    def step(self, method, z, k, level, sigma, to, p):
        if method == "stsl":
            for r in range(INNER):
                z = z.detach().requires_grad_()
                z = (z - self.m["zeta"] * torch.autograd.grad(self.stsl(k, r)(z), z)[0]).detach()
        with torch.no_grad():
            z0 = self.z0(z, k)
        up = (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5
        down = (to**2 - up**2) ** 0.5
        mean = z + (z - z0) / sigma * (down - sigma)
        after = mean + up * self.noise(level, ANCESTRAL + ROUND * p)
        radius = up * z.numel() ** 0.5
        if method in ("dps", "freedom", "p2l", "resample"):
            after = after - self.m["zeta"] * self.gradient(z, k)
        elif method == "lgd":
            after = after - self.m["zeta"] * self.gradient(z, k, self.lgd(k))
        elif method == "psld":
            after = after - self.m["zeta"] * self.gradient(z, k, self.psld(k))
        elif method == "dsg":
            g = self.gradient(z, k)
            best = -radius * g / g.norm()
            mixed = (after - mean) + SHARE * (best - (after - mean))
            after = mean + radius * mixed / (mixed.norm() + 1e-30)
        elif method == "dmap" and k + 1 < STEPS:
            for _ in range(INNER):
                moved = after - self.m["zeta"] * self.gradient(after, k + 1) - mean
                after = mean + moved / moved.norm() * radius
        return after


METHODS = ("unconditional", "dps", "dmap", "dsg", "lgd", "freedom", "psld", "stsl", "resample", "p2l", "daps")


def nhwc(a):
    return a.detach().float().permute(0, 2, 3, 1).contiguous()


PROMPT = "A  photo, of 2 Cats; to a dog"


def write_tokenizer(folder, pad):
    """Writes a vocabulary of 50 pieces. Returns the token numbers of the prompt by transformers."""
    from transformers import CLIPTokenizer

    letters = list("acdfghopst,;12")
    merges = ["c a", "ca t", "cat s</w>", "d o", "do g</w>", "p h", "ph o", "t o</w>", "pho to</w>", "o f</w>"]
    vocabulary = letters + [c + "</w>" for c in letters] + [m.replace(" ", "") for m in merges]
    vocabulary += [f"<unused {i}>" for i in range(48 - len(vocabulary))] + ["<|startoftext|>", "<|endoftext|>"]
    if pad == "!":
        vocabulary[47] = "!"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({v: i for i, v in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return tokenizer(PROMPT, add_special_tokens=False)["input_ids"]


def reference(name, m, out, seed):
    torch.manual_seed(seed)
    folder = out / f"latent_{name}"
    unet = randomise(UNet2DConditionModel(**m["unet"]))
    vae = randomise(AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * len(m["vae"]["block_out_channels"]),
                                  up_block_types=["UpDecoderBlock2D"] * len(m["vae"]["block_out_channels"]), **m["vae"]))  # fmt: skip
    text_config = dict(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                       max_position_embeddings=7, hidden_act=m["act"], eos_token_id=49, bos_token_id=48)  # fmt: skip
    text = randomise(CLIPTextModel(CLIPTextConfig(**text_config)))
    write_part(folder / "unet", unet, m["unet"], shards=2 if name == "sd2" else 1)
    write_part(folder / "vae", vae, m["vae"])
    write_part(folder / "text_encoder", text, text_config, "model")
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = dict(_class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                     num_train_timesteps=1000, skip_prk_steps=True, prediction_type=m["prediction"])  # fmt: skip
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")

    padding = 0 if name == "sd2" else 49
    context = text(torch.tensor([[48, 49] + [padding] * 5]))[0]
    factor = 2 ** (len(m["vae"]["block_out_channels"]) - 1)
    data = {"prompt_embeds": context}
    words = write_tokenizer(folder / "tokenizer", "!" if name == "sd2" else "<|endoftext|>")
    tokens = [48] + words[:5] + [49]
    print(PROMPT, tokens)
    data["prompt.tokens"] = torch.tensor([float(t) for t in words])
    data["prompt.output"] = text(torch.tensor([(tokens + [padding] * 7)[:7]]))[0]
    # UNet: two items at different timesteps; one timestep is not a whole number.
    x = torch.randn(2, 4, 8, 12, requires_grad=True)
    t = torch.tensor([17.0, 730.25])
    y = unet(x, t, context.expand(2, -1, -1)).sample
    v = torch.randn_like(y)
    data.update({"unet.x": nhwc(x), "unet.t": t, "unet.v": nhwc(v), "unet.output": nhwc(y)})
    data["unet.vjp"] = nhwc(torch.autograd.grad(y, x, v)[0])
    # Encoder: mean and log variance. Decoder.
    image = (0.5 * torch.randn(1, 3, 4 * factor, 6 * factor)).requires_grad_()
    moments = vae.quant_conv(vae.encoder(image))
    v = torch.randn_like(moments)
    data.update({"encoder.x": nhwc(image), "encoder.v": nhwc(v), "encoder.output": nhwc(moments)})
    data["encoder.vjp"] = nhwc(torch.autograd.grad(moments, image, v)[0])
    z = torch.randn(1, 4, 4, 8, requires_grad=True)
    decoded = vae.decode(z).sample
    v = torch.randn_like(decoded)
    data.update({"decoder.x": nhwc(z), "decoder.v": nhwc(v), "decoder.output": nhwc(decoded)})
    data["decoder.vjp"] = nhwc(torch.autograd.grad(decoded, z, v)[0])
    # Chains of five steps. The measurement is the whole image, so the operator is the identity.
    shape = (1, 4, 8, 8)
    measured = 0.5 * torch.randn(1, 3, 8 * factor, 8 * factor)
    chain = Chain(unet, vae, context, m, measured, shape)
    data["chain.y"] = nhwc(measured)
    for method in METHODS:
        data[f"chain.{method}"] = nhwc(chain.run(method))
    # The gradient of the residual norm at one z in sigma space, at the second level.
    z = chain.sigmas[1] * chain.noise(0, 0)
    data.update({"step.z": nhwc(z), "step.sigma": chain.sigmas[1:2].float(), "step.t": chain.t[1:2].float()})
    data["step.gradient"] = nhwc(chain.gradient(z, 1))
    data["step.residual"] = chain.residual(chain.z0(z, 1)).detach().float()[None]
    save_file({k: v.detach().float().contiguous() for k, v in data.items()}, folder / "reference.safetensors")
    print(name, sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in vae.parameters()))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, type=pathlib.Path)
    args = p.parse_args()
    for seed, (name, m) in enumerate(MODELS.items()):
        reference(name, m, args.out, seed)
