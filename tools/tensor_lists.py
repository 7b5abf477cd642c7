"""Names and shapes of the tensors of published latent models, for tests/latent_tensors.rs.

    python tools/tensor_lists.py --out tests/data/tensors

Needs torch, diffusers and transformers. Builds the modules from the published configurations without any weights.
"""

import argparse
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

LEVELS = dict(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
MODELS = {
    "sd1-unet": lambda: UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, **LEVELS),
    "sd2-unet": lambda: UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, **LEVELS
    ),
    "vae": lambda: AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ),
    "sd2-text_encoder": lambda: CLIPTextModel(CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")),
}  # fmt: skip

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, type=pathlib.Path)
    out = p.parse_args().out
    for name, build in MODELS.items():
        with torch.device("meta"):
            tensors = {k: v for k, v in build().state_dict().items() if "position_ids" not in k}
        rows = [f"{k.removeprefix('text_model.')}\t{','.join(map(str, v.shape))}\n" for k, v in sorted(tensors.items())]
        (out / f"{name}.tsv").write_text("".join(rows))
        print(name, len(rows), "tensors,", sum(v.numel() for v in tensors.values()), "parameters")
