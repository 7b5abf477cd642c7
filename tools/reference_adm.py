"""Reference data for tests/adm_reference.rs and tests/schedule_reference.rs, made by the real guided-diffusion code.

    python tools/reference_adm.py --guided-diffusion PATH_OF_A_CHECKOUT --out tests/data

Needs torch, safetensors and mpi-free parts of guided-diffusion only. Three small networks with random weights use every
switch of the family between them. Weights are rounded to f16 before the evaluation, so that the small file is exact.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

SMALL = dict(model_channels=32, norm_groups=32, in_channels=3, diffusion_steps=1000, noise_schedule="linear")
CONFIGS = {
    # This model is class-conditional, with heads counted by number, legacy order, scale-shift,
    # residual up/down and learned variance.
    "a": dict(SMALL, channel_mult=[1, 2], num_res_blocks=1, attention_ds=[2], num_heads=2, num_head_channels=0, num_classes=10,
              class_cond=True, use_scale_shift_norm=True, resblock_updown=True, conv_resample=True,
              use_new_attention_order=False, learn_sigma=True, rescale_timesteps=False),
    # This model has heads counted by channels, new order, no scale-shift, a strided convolution and
    # attention at two levels.
    "b": dict(SMALL, channel_mult=[1, 1, 2], num_res_blocks=2, attention_ds=[2, 4], num_heads=1, num_head_channels=16, num_classes=1000,
              class_cond=False, use_scale_shift_norm=False, resblock_updown=False, conv_resample=True,
              use_new_attention_order=True, learn_sigma=False, rescale_timesteps=True),
    # This model has a half-width first level, resampling without weights, and legacy order by
    # channels.
    "c": dict(SMALL, model_channels=64, channel_mult=[0.5, 1], num_res_blocks=1, attention_ds=[1], num_heads=4, num_head_channels=32, num_classes=1000,
              class_cond=False, use_scale_shift_norm=True, resblock_updown=False, conv_resample=False,
              use_new_attention_order=False, learn_sigma=True, rescale_timesteps=False),
}


def reference(unet, name, c, out, seed):
    torch.manual_seed(seed)
    channels = 3 * (2 if c["learn_sigma"] else 1)
    model = unet.UNetModel(
        image_size=16, in_channels=3, model_channels=c["model_channels"], out_channels=channels, num_res_blocks=c["num_res_blocks"],
        attention_resolutions=tuple(c["attention_ds"]), channel_mult=tuple(c["channel_mult"]), conv_resample=c["conv_resample"],
        num_classes=c["num_classes"] if c["class_cond"] else None, num_heads=c["num_heads"],
        num_head_channels=c["num_head_channels"] or -1, use_scale_shift_norm=c["use_scale_shift_norm"],
        resblock_updown=c["resblock_updown"], use_new_attention_order=c["use_new_attention_order"],
    ).eval()
    # Every weight is drawn anew, because zero-initialised layers would hide whole branches.
    with torch.no_grad():
        for key, p in model.named_parameters():
            scale = 0.1 if p.dim() == 1 else (p[0].numel()) ** -0.5
            p.copy_((torch.randn_like(p) * scale + (1.0 if key.endswith("norm.weight") else 0.0)).half().float())
    h, w = (16, 24) if name != "b" else (12, 16)
    x = torch.randn(2, 3, h, w)
    # The weights stay trainable, because the attention checkpoints its function and insists on
    # their gradients.
    x.requires_grad_()
    t = torch.tensor([17.0, 730.0])
    labels = torch.tensor([3, 9]) if c["class_cond"] else None
    y = model(x, t, **({"y": labels} if c["class_cond"] else {}))
    v = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, v)
    nhwc = lambda a: a.detach().permute(0, 2, 3, 1).contiguous()
    data = {"x": nhwc(x), "t": t, "v": nhwc(v), "output": nhwc(y), "vjp": nhwc(dx)}
    if labels is not None:
        data["labels"] = labels.float()
    save_file(data, out / f"adm_{name}_io.safetensors")
    weights = {k: p.detach().half() for k, p in model.state_dict().items()}
    save_file(weights, out / f"adm_{name}.safetensors", {"format": "pt", "config": json.dumps(c)})
    # The same weights as PyTorch saves them, and inside a training checkpoint.
    if name == "a":
        torch.save({k: p.clone() for k, p in weights.items()}, out / "adm_a.pt")
    print(name, sum(p.numel() for p in model.parameters()), "parameters, output norm", y.norm().item())


def schedules(gd, respace, out):
    import numpy as np

    result = {}
    for name in ("linear", "cosine"):
        for spacing in ("1000", "50", "7"):
            kwargs = dict(model_mean_type=gd.ModelMeanType.EPSILON, model_var_type=gd.ModelVarType.LEARNED_RANGE, loss_type=gd.LossType.MSE)
            betas = gd.get_named_beta_schedule(name, 1000)
            d = respace.SpacedDiffusion(use_timesteps=respace.space_timesteps(1000, spacing), betas=betas, **kwargs)
            pick = [0, 1, len(d.betas) // 2, len(d.betas) - 1]
            large = np.append(d.posterior_variance[1], d.betas[1:])
            result[f"{name}/{spacing}"] = {
                "levels": pick,
                "timesteps": [d.timestep_map[i] for i in pick],
                "alpha_bar": d.alphas_cumprod[pick].tolist(),
                "beta": np.asarray(d.betas)[pick].tolist(),
                "coefficient_x0": d.posterior_mean_coef1[pick].tolist(),
                "coefficient_x": d.posterior_mean_coef2[pick].tolist(),
                "log_small": d.posterior_log_variance_clipped[pick].tolist(),
                "log_large": np.log(large)[pick].tolist(),
            }
    (out / "schedules.json").write_text(json.dumps(result, indent=1) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--guided-diffusion", required=True)
    p.add_argument("--out", type=pathlib.Path, required=True)
    args = p.parse_args()
    sys.path.insert(0, args.guided_diffusion)
    from guided_diffusion import gaussian_diffusion, respace, unet

    for seed, (name, config) in enumerate(CONFIGS.items()):
        reference(unet, name, config, args.out, seed)
    schedules(gaussian_diffusion, respace, args.out)


if __name__ == "__main__":
    main()
