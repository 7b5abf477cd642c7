"""Time and peak memory of a training step of a conditional score estimator in PyTorch, for the pixel prior.

    python tools/peers/train_step.py --photo weights/photo/photo.safetensors [--size 64 --batch 8 --steps 5 --threads 2]

Needs torch and safetensors. The step is that of `dmap train-cse`: noise, both networks, the mean squared error, its gradients by the
ControlNet's weights, clipping, AdamW; f32, channels last, images made beforehand. Prints seconds per step and the peak of the
resident memory in MiB.
"""

import argparse
import pathlib
import resource
import sys
import time

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from adm import ADM, PHOTO_CONFIG, ControlNet

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--photo", required=True)
p.add_argument("--size", type=int, default=64)
p.add_argument("--batch", type=int, default=8)
p.add_argument("--steps", type=int, default=5)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
torch.set_num_threads(a.threads)
model = ADM(PHOTO_CONFIG)
model.load_state_dict({k: v.float() for k, v in load_file(a.photo).items()})
model.requires_grad_(False)
control = ControlNet(model).requires_grad_(True)
model, control = (m.to(memory_format=torch.channels_last) for m in (model, control))
optimiser = torch.optim.AdamW(control.parameters(), lr=1e-4)
bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
last = lambda: torch.randn(a.batch, 3, a.size, a.size).to(memory_format=torch.channels_last)


def step():
    x0, noise, condition = last(), last(), last()
    t = torch.randint(1000, (a.batch,))
    bar = bars[t][:, None, None, None]
    x = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    loss = (model(x, t, control(x, t, condition)) - noise).square().mean()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
    optimiser.step()


step()
times = []
for _ in range(a.steps):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"PyTorch {torch.__version__}: {sorted(times)[len(times) // 2]:.2f} s a step (best {min(times):.2f}), peak {peak:.0f} MiB")
