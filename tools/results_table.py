"""Writes the README's table of results from the rows that `cargo bench --bench restoration` left.

    python tools/results_table.py benches/records/DATE-MACHINE/restoration.tsv [benches/records/.../samples.tsv]

Replaces what stands between `<!-- results -->` and `<!-- end of results -->` in README.md.
"""

import collections
import csv
import pathlib
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def means(path):
    groups = collections.OrderedDict()
    for row in csv.DictReader(open(path), delimiter="\t"):
        groups.setdefault((row["task"], row["method"], row["steps"], row["inner"], row["zeta"], row["samples"]), []).append(row)
    out = collections.OrderedDict()
    for key, rows in groups.items():
        mean = lambda name: sum(float(r[name]) for r in rows) / len(rows)
        out[key] = {n: mean(n) for n in ("psnr", "ssim", "baseline", "residual_ratio", "passes", "seconds")} | {"photos": len(rows)}
    return out


BASELINE = {"sr4": "bicubic", "inpaint-box": "nearest pixel", "inpaint-random": "nearest pixel"}


def main():
    single = means(sys.argv[1])
    methods = {}
    for (task, method, steps, inner, zeta, _), m in single.items():
        methods.setdefault(task, {})[method] = m
        methods.setdefault("settings", {})[method] = f"{method}: {steps} levels, K = {inner}, {zeta}, {m['passes']:.0f} network passes"
    settings = methods.pop("settings")
    photos = next(iter(single.values()))["photos"]
    lines = [
        "## Results",
        "",
        f"Mean PSNR in dB (SSIM of the luma) over the centre 256x256 pixels of {photos} photographs that the prior has not seen, noise 0.025, seed 0, one sample,",
        f"the same number of network passes (forward evaluations plus VJPs) for both methods. {'; '.join(settings.values())}.",
        "",
        "| task | naive | DPS | DMAP | DMAP over DPS | DMAP's residual over the noise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, m in methods.items():
        dps, dmap = m["dps"], m["dmap"]
        lines.append(
            f"| {task} | {dmap['baseline']:.2f} ({BASELINE.get(task, 'measurement')}) | {dps['psnr']:.2f} ({dps['ssim']:.3f}) "
            f"| {dmap['psnr']:.2f} ({dmap['ssim']:.3f}) | {dmap['psnr'] - dps['psnr']:+.2f} | {dmap['residual_ratio']:.2f} |"
        )
    seconds = sum(m["dmap"]["seconds"] for m in methods.values()) / len(methods)
    lines += ["", f"{seconds:.1f} s per image on the two cores of the record."]
    for path in sys.argv[2:]:
        for (task, method, *_, samples), m in means(path).items():
            lines.append(
                f"The mean of {samples} samples (`--samples {samples}`), {task} by {method} over {m['photos']} photographs: {m['psnr']:.2f} dB "
                f"({m['ssim']:.3f}), naive {m['baseline']:.2f} dB."
            )
    text = README.read_text()
    before, rest = text.split("<!-- results -->")
    after = rest.split("<!-- end of results -->")[1]
    README.write_text(f"{before}<!-- results -->\n" + "\n".join(lines) + f"\n<!-- end of results -->{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
