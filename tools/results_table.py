"""Writes the README's tables of results from the rows that `cargo bench --bench restoration` left.

    python tools/results_table.py benches/records/2026-11-27-epyc-2core/restoration.tsv

Replaces the text between `<!-- results -->` and `<!-- end of results -->` in README.md with one
table per noise. For each task, a method is shown over the photographs that every method of the
table restored.
"""

import collections
import csv
import pathlib
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
NAIVE = {"sr4": "bicubic", "inpaint-box": "nearest pixel", "inpaint-random": "nearest pixel"}


def label(method):
    """The name of a column: `auto` chooses between two starts by the task."""
    return "auto" if "views=2" in method else method


def mean(rows, name):
    return sum(float(r[name]) for r in rows) / len(rows)


def table(noise, runs):
    """`runs` has the rows of one noise: task -> (method, steps) -> photo -> row."""
    methods = list(dict.fromkeys(m for per_method in runs.values() for m in per_method))
    names = [f"`{method}`, {steps} levels" for method, steps in methods]
    lines = [
        f"Noise {noise}:",
        "",
        "| task | photos | naive | " + " | ".join(names) + " |",
        "| --- | --- | --- |" + " --- |" * len(methods),
    ]
    for task, per_method in runs.items():
        photos = sorted(set.intersection(*(set(rows) for rows in per_method.values())))
        cells, best = [], max(mean([rows[p] for p in photos], "psnr") for rows in per_method.values())
        for method in methods:
            if method not in per_method:
                cells.append("-")
                continue
            shown = [per_method[method][p] for p in photos]
            psnr = mean(shown, "psnr")
            text = f"**{psnr:.2f}**" if psnr == best else f"{psnr:.2f}"
            cells.append(f"{text} ({mean(shown, 'ssim'):.3f}), {mean(shown, 'passes'):.0f} passes")
        baseline = mean([next(iter(per_method.values()))[p] for p in photos], "baseline")
        lines.append(f"| {task} | {len(photos)} | {baseline:.2f} ({NAIVE.get(task, 'measurement')}) | {' | '.join(cells)} |")
    return lines + [""]


def main():
    runs = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(dict)))
    for path in sys.argv[1:]:
        for row in csv.DictReader(open(path), delimiter="\t"):
            runs[row["noise"]][row["task"]][label(row["method"]), row["steps"]][row["photo"]] = row
    lines = [
        "Mean PSNR in dB (SSIM of the luma) over the centre 256x256 pixels of photographs that neither the prior nor the settings have seen, by",
        "the prior inside, seed 0, one image of each. Passes are forward evaluations plus VJPs of the network; a VJP costs more than a forward.",
        "",
    ]
    for noise in sorted(runs, key=lambda n: (n != "0.025", float(n))):
        lines += table(noise, runs[noise])
    text = README.read_text()
    before, rest = text.split("<!-- results -->")
    after = rest.split("<!-- end of results -->")[1]
    README.write_text(f"{before}<!-- results -->\n" + "\n".join(lines).rstrip() + f"\n<!-- end of results -->{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
