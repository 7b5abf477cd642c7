"""The guided-diffusion ADM UNet in PyTorch, with that code's tensor names.

Only what training the shipped prior and timing the PyTorch peer need: an unconditional
epsilon-prediction model with residual up/down blocks and scale-shift norm, and a ControlNet over
it. Tensors are N, C, H, W.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t, dim):
    """[cos, sin] of t * exp(-ln(10000) i / half), shape (N, dim)."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    args = t.float()[:, None] * freqs[None]
    return torch.cat([args.cos(), args.sin()], dim=1)


class ResBlock(nn.Module):
    def __init__(self, cin, cout, emb, groups, resize=None):
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, cout), nn.SiLU(), nn.Identity(), nn.Conv2d(cout, cout, 3, padding=1)
        )
        nn.init.zeros_(self.out_layers[3].weight)
        nn.init.zeros_(self.out_layers[3].bias)
        self.skip_connection = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def resized(self, x):
        if self.resize == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resize == "down" else x

    def forward(self, x, emb):
        h = self.in_layers[1](self.in_layers[0](x))
        h = self.in_layers[2](self.resized(h))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self.resized(x)) + self.out_layers[3](self.out_layers[1](h))


class AttentionBlock(nn.Module):
    """Self-attention over all pixels; qkv order is "new": all q, all k, all v."""

    def __init__(self, channels, head_channels, groups):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x, emb):
        n, c, h, w = x.shape
        flat = x.reshape(n, c, h * w)
        qkv = self.qkv(self.norm(flat)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(3, 4)
        a = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        a = a.transpose(2, 3).reshape(n, c, h * w)
        return (flat + self.proj_out(a)).reshape(n, c, h, w)


class Blocks(nn.Sequential):
    def forward(self, x, emb):
        for block in self:
            x = block(x, emb) if isinstance(block, (ResBlock, AttentionBlock)) else block(x)
        return x


class ADM(nn.Module):
    def __init__(self, config):
        super().__init__()
        mc, mult = config["model_channels"], config["channel_mult"]
        emb, groups = 4 * mc, config["norm_groups"]
        self.model_channels = mc
        self.time_embed = nn.Sequential(nn.Linear(mc, emb), nn.SiLU(), nn.Linear(emb, emb))

        def level(cin, cout, ds):
            blocks = [ResBlock(cin, cout, emb, groups)]
            if ds in config["attention_ds"]:
                blocks.append(AttentionBlock(cout, config["num_head_channels"], groups))
            return blocks

        ch, ds, skips = mc * mult[0], 1, [mc * mult[0]]
        self.input_blocks = nn.ModuleList([Blocks(nn.Conv2d(config["in_channels"], ch, 3, padding=1))])
        for i, m in enumerate(mult):
            for _ in range(config["num_res_blocks"]):
                self.input_blocks.append(Blocks(*level(ch, m * mc, ds)))
                ch = m * mc
                skips.append(ch)
            if i + 1 < len(mult):
                self.input_blocks.append(Blocks(ResBlock(ch, ch, emb, groups, "down")))
                skips.append(ch)
                ds *= 2
        self.middle_block = Blocks(
            ResBlock(ch, ch, emb, groups), AttentionBlock(ch, config["num_head_channels"], groups), ResBlock(ch, ch, emb, groups)
        )
        self.skip_channels = list(skips)
        self.output_blocks = nn.ModuleList()
        for i, m in reversed(list(enumerate(mult))):
            for j in range(config["num_res_blocks"] + 1):
                blocks = level(ch + skips.pop(), m * mc, ds)
                ch = m * mc
                if i and j == config["num_res_blocks"]:
                    blocks.append(ResBlock(ch, ch, emb, groups, "up"))
                    ds //= 2
                self.output_blocks.append(Blocks(*blocks))
        self.out = nn.Sequential(nn.GroupNorm(groups, ch), nn.SiLU(), nn.Conv2d(ch, config["out_channels"], 3, padding=1))
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x, t, control=None):
        """`control` is what a ControlNet adds to the skip connections and to the middle block's output."""
        emb = self.time_embed(timestep_embedding(t, self.model_channels))
        outputs = encoded(self, x, emb)
        if control is not None:
            outputs = [h + addition for h, addition in zip(outputs, control, strict=True)]
        *skips, h = outputs
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


def encoded(half, x, emb, hint=None):
    """The outputs of an encoder half: the skip connections, then the middle block's output. `hint` is added to the output of the
    first convolution."""
    outputs = [half.input_blocks[0](x, emb)]
    if hint is not None:
        outputs[0] = outputs[0] + hint
    for block in half.input_blocks[1:]:
        outputs.append(block(outputs[-1], emb))
    return [*outputs, half.middle_block(outputs[-1], emb)]


def zeroed(conv):
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ConditionEmbedding(nn.Module):
    """The embedding of the condition image in full resolution, with the names of diffusers' ControlNetConditioningEmbedding. Its
    last convolution is zero before training."""

    def __init__(self, condition_channels, levels, channels):
        super().__init__()
        self.conv_in = nn.Conv2d(condition_channels, levels[0], 3, padding=1)
        pairs = [pair for a, b in zip(levels, levels[1:]) for pair in ((a, a), (a, b))]
        self.blocks = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.conv_out = zeroed(nn.Conv2d(levels[-1], channels, 3, padding=1))

    def forward(self, condition):
        h = F.silu(self.conv_in(condition))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)


class ControlNet(nn.Module):
    """A copy of the encoder half of an ADM that also reads a condition image (Zhang, Rao and Agrawala 2023), with that model's
    weights at first. Each of its outputs passes through a 1x1 convolution that is zero before training."""

    def __init__(self, base, condition_channels=3, levels=(16, 32)):
        super().__init__()
        # What the engine reads in the metadata of the weight file.
        self.config = {"conditioning_channels": condition_channels, "conditioning_embedding_out_channels": list(levels)}
        self.model_channels = base.model_channels
        self.time_embed, self.input_blocks, self.middle_block = map(copy.deepcopy, (base.time_embed, base.input_blocks, base.middle_block))
        first = base.skip_channels[0]
        self.controlnet_cond_embedding = ConditionEmbedding(condition_channels, levels, first)
        self.controlnet_down_blocks = nn.ModuleList(zeroed(nn.Conv2d(c, c, 1)) for c in base.skip_channels)
        last = base.skip_channels[-1]
        self.controlnet_mid_block = zeroed(nn.Conv2d(last, last, 1))

    def forward(self, x, t, condition):
        """What it adds to the skip connections, then to the middle block's output."""
        emb = self.time_embed(timestep_embedding(t, self.model_channels))
        outputs = encoded(self, x, emb, self.controlnet_cond_embedding(condition))
        convolutions = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        return [convolution(h) for convolution, h in zip(convolutions, outputs, strict=True)]


PHOTO_CONFIG = {
    "model_channels": 32,
    "channel_mult": [1, 2, 3, 4],
    "num_res_blocks": 1,
    "attention_ds": [8],
    "num_head_channels": 32,
    "norm_groups": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "use_new_attention_order": True,
    "learn_sigma": False,
    "class_cond": False,
    "in_channels": 3,
    "out_channels": 3,
    "dropout": 0.0,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predicts": "epsilon",
    "pixel_range": [-1, 1],
}
