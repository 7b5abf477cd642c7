"""One latent DPS step of Stable Diffusion 2 at 512x512 on the CPU: this program against PyTorch with diffusers.

    python tools/peers/latent_step.py --folder /tmp/sd2-random --dmap target/release/dmap

Needs torch, diffusers, numpy and safetensors, and 14 GiB of memory. Writes a folder in diffusers layout with random weights of the
published shapes (f16, 1.9 GB) unless it is there, an x at one timestep and a measurement. Both programs then compute the gradient of
|| D(x0(x)) - y || by x in f32; printed are its relative difference, and time and peak resident memory of both.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

TIMESTEP = 400
LEVELS = dict(
    block_out_channels=[320, 640, 1280, 1280],
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
)
UNET = dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True,
            in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=32, **LEVELS)  # fmt: skip
VAE = dict(block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4, norm_num_groups=32,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)  # fmt: skip
SCHEDULER = dict(_class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                 num_train_timesteps=1000, prediction_type="epsilon")  # fmt: skip


def alpha_bar(t):
    return float(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t])


def write_folder(folder, size):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    for part, cls, config in (("unet", UNet2DConditionModel, UNET), ("vae", AutoencoderKL, VAE)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        with torch.device("meta"):
            shapes = {k: tuple(v.shape) for k, v in cls(**config).state_dict().items()}
        tensors = {}
        for name, shape in shapes.items():
            deviation = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensors[name] = (centre + deviation * torch.randn(shape)).half()
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors")
        (folder / part / "config.json").write_text(json.dumps(dict(_class_name=cls.__name__, **config)))
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    save_file({"prompt_embeds": torch.randn(1, 77, 1024)}, folder / "prompt_embeds.safetensors")
    x = torch.randn(1, size // 8, size // 8, 4)
    save_file({"x": x, "t": torch.tensor([float(TIMESTEP)]), "y": 0.3 * torch.randn(1, size, size, 3)}, folder / "input.safetensors")


def torch_step(folder):
    """Runs in a process of its own: prints seconds, and leaves the gradient in torch.safetensors."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(2)
    models = []
    for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        model = cls.from_config(json.loads((folder / part / "config.json").read_text()))
        tensors = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        model.load_state_dict(tensors, assign=True)
        models.append(model.float().eval().requires_grad_(False))
        del tensors
    unet, vae = models
    data = load_file(folder / "input.safetensors")
    context = load_file(folder / "prompt_embeds.safetensors")["prompt_embeds"]
    start = time.time()
    x = data["x"].permute(0, 3, 1, 2).contiguous().requires_grad_()
    bar = alpha_bar(TIMESTEP)
    x0 = (x - (1 - bar) ** 0.5 * unet(x, data["t"], context).sample) / bar**0.5
    image = vae.decode(x0 / 0.18215).sample
    residual = (image - data["y"].permute(0, 3, 1, 2)).norm()
    (gradient,) = torch.autograd.grad(residual, x)
    print(f"{time.time() - start:.2f}")
    save_file({"gradient": gradient.permute(0, 2, 3, 1).contiguous(), "residual": residual.detach()[None]}, folder / "torch.safetensors")


def measured(command):
    """Standard output, seconds and peak resident GiB of one process."""
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{out}")
    return out, time.time() - start, usage.ru_maxrss / 2**20


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=pathlib.Path, required=True)
    p.add_argument("--dmap", default="target/release/dmap")
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--offload-memory", default="3GiB", help="budget of a second run with --offload")
    p.add_argument("--torch-step", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.torch_step:
        return torch_step(args.folder)
    if not (args.folder / "input.safetensors").exists():
        # In a process of its own, so that its memory is not counted.
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import latent_step as l; "
                        f"import pathlib; l.write_folder(pathlib.Path({str(args.folder)!r}), {args.size})"], check=True)  # fmt: skip
    out = args.folder / "dmap.safetensors"
    command = [args.dmap, "eval", "--model", args.folder, "--input", args.folder / "input.safetensors", "--task", "denoise", "--out"]
    runs = {"dmap": [out], "dmap, offloaded": [args.folder / "offloaded.safetensors", "--memory", args.offload_memory, "--offload"]}
    for name, more in runs.items():
        _, seconds, peak = measured([*map(str, command + more)])
        print(f"{name}: {seconds:.1f} s with loading, peak resident {peak:.2f} GiB", flush=True)
    text, seconds, theirs = measured([sys.executable, __file__, "--folder", str(args.folder), "--torch-step"])
    print(f"PyTorch f32: {seconds:.1f} s with loading, {text.strip()} s the step, peak resident {theirs:.2f} GiB")
    from safetensors.numpy import load_file

    a, b = load_file(out), load_file(args.folder / "torch.safetensors")
    same = all(np.array_equal(v, load_file(args.folder / "offloaded.safetensors")[k]) for k, v in a.items())
    print(f"offloaded: {'the same bits' if same else 'OTHER NUMBERS'}")
    for name in ("residual", "gradient"):
        print(f"{name}: relative difference {np.linalg.norm(a[name] - b[name]) / np.linalg.norm(b[name]):.2e}")


if __name__ == "__main__":
    main()
