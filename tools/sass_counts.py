"""Instructions of the hottest loop of the convolution and attention kernels: tensor-core products against all others.

    pip install nvidia-cuda-nvdisasm
    python tools/sass_counts.py CUBIN... [--nvdisasm PATH]

A CUBIN lies in target/release/build/dmap-*/out/conv.cu.sm_90a.* after a build. The hottest loop is the span of a backward branch that
holds most products. Prints a markdown table.
"""

import argparse
import re
import subprocess


def loops(instructions):
    """(start, end) of every backward branch, by address."""
    for at, text in instructions:
        target = re.search(r"\bBRA.*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < at:
            yield int(target[1], 16), at


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
            count = lambda lo, hi, what: sum(bool(re.search(what, t)) for at, t in instructions if lo <= at <= hi)
            best = max(loops(instructions), key=lambda l: (count(*l, r"\bHMMA"), l[0] - l[1]), default=None)
            if best:
                mma = count(*best, r"\bHMMA")
                print(f"| {name} | {mma} | {count(*best, '.') - mma} | {count(*best, r'LDSM')} | {count(*best, r'LDGSTS')} |")


if __name__ == "__main__":
    main()
