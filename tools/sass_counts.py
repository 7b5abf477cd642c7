"""Instructions of the hottest loop of the convolution and attention kernels: tensor-core products against all others.

    pip install nvidia-cuda-nvdisasm
    python tools/sass_counts.py CUBIN... [--nvdisasm PATH]

A CUBIN lies in target/release/build/dmap-*/out/conv-mma.cu.sm_90a.* after a build. The hottest loop is the span of a backward branch that
holds most products, without what a branch in it skips that neither copies nor multiplies: that is done once per slice of a convolution's channels.
Prints a markdown table.
"""

import argparse
import re
import subprocess


def branches(instructions):
    """(address, target) of every branch."""
    for at, text in instructions:
        if target := re.search(r"\bBRA.*?(0x[0-9a-f]+)", text):
            yield at, int(target[1], 16)


def hot(instructions, lo, hi):
    """The instructions of a loop that every turn runs."""
    inside = [i for i in instructions if lo <= i[0] <= hi]
    for at, target in branches(inside):
        skipped = [t for a, t in inside if at < a < target <= hi]
        if not re.search(r"HMMA|LDSM|LDGSTS", " ".join(skipped)):
            inside = [i for i in inside if not at < i[0] < target]
    return [t for _, t in inside]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cubins", nargs="+")
    p.add_argument("--nvdisasm", default="nvdisasm")
    p.add_argument("--kernels", default="_mma_bf16_")
    args = p.parse_args()
    print("| kernel | products | others | of these ldmatrix | cp.async |\n| --- | --- | --- | --- | --- |")
    for cubin in args.cubins:
        text = subprocess.run([args.nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
        labels = {}
        for section in re.split(r"\n\s*\.section\s+\.text\.", text)[1:]:
            name = section.split(",")[0].strip()
            if args.kernels not in name:
                continue
            labels, instructions, pending = {}, [], []
            for line in section.splitlines():
                if label := re.match(r"(\.L_x_\d+):", line):
                    pending.append(label[1])
                elif found := re.search(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
                    at = int(found[1], 16)
                    labels.update({l: at for l in pending})
                    pending = []
                    instructions.append((at, found[2]))
            resolve = lambda t: re.sub(r"`\((\.L_x_\d+)\)", lambda m: hex(labels.get(m[1], 1 << 40)), t)
            instructions = [(at, resolve(t)) for at, t in instructions]
            count = lambda texts, what: sum(bool(re.search(what, t)) for t in texts)
            spans = [(count(hot(instructions, to, at), "HMMA"), to - at, to, at) for at, to in branches(instructions) if to < at]
            if spans:
                loop = hot(instructions, *max(spans)[2:])
                mma = count(loop, "HMMA")
                print(f"| {name} | {mma} | {len(loop) - mma} | {count(loop, 'LDSM')} | {count(loop, 'LDGSTS')} |")


if __name__ == "__main__":
    main()
