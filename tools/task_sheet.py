"""Draws demo/tasks.jpg: what every task makes of the demonstration photo, and the photo restored.

    python tools/task_sheet.py target/release/dmap

Needs Pillow. Runs `dmap restore` once per task on the centre 128x128 pixels, with its defaults but
for the methods below.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

TASKS = [
    "sr4", "sr-bicubic:factor=4,like=pytorch-aliased", "sr-average:factor=4", "gaussian-blur", "uniform-blur",
    "anisotropic-blur:size=31,sigma=6,angle=30", "motion-blur", "inpaint-box", "inpaint-random", "demosaic", "colorize",
    "compressed-sensing", "hdr", "jpeg:quality=10", "phase-retrieval", "edge", "denoise", "gaussian-blur:sigma=1+sr2",
]
# Where the gradient of the clipped range is 0, methods that start from noise are stuck.
METHODS = {"hdr": "red-diff"}
SIDE, GAP, LABEL, ACROSS = 128, 6, 14, 3


def main():
    dmap, work = sys.argv[1], Path(tempfile.mkdtemp())
    rows = -(-len(TASKS) // ACROSS)
    width = ACROSS * (2 * SIDE + 3 * GAP)
    sheet = Image.new("RGB", (width, rows * (SIDE + LABEL + GAP)), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    for k, task in enumerate(TASKS):
        out = work / str(k)
        noise = "0.1" if task == "denoise" else "0.01"
        command = [dmap, "restore", "demo/photo.png", "--size", str(SIDE), "--noise", noise, "--task", task, "--out", out]
        command += ["--method", METHODS[task]] if task in METHODS else []
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        print(task, next(line for line in said if " dB " in line), flush=True)
        left, top = k % ACROSS * (2 * SIDE + 3 * GAP) + GAP, k // ACROSS * (SIDE + LABEL + GAP)
        draw.text((left, top + 1), task, (32, 32, 32))
        for i, name in enumerate(["measurement.png", "restored.png"]):
            picture = Image.open(out / "photo" / name).convert("RGB").resize((SIDE, SIDE), Image.NEAREST)
            sheet.paste(picture, (left + i * (SIDE + GAP), top + LABEL))
    sheet.save("demo/tasks.jpg", quality=90)


if __name__ == "__main__":
    main()
