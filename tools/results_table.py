"""Writes the README's table of results from the rows that `cargo bench --bench restoration` left.

    python tools/results_table.py benches/records/*/{dmap,dps,dps-relative,samples}.tsv

Replaces what stands between `<!-- results -->` and `<!-- end of results -->` in README.md. Per task each method is shown with its best
step size of those in the rows, over the photographs that all methods restored.
"""

import collections
import csv
import pathlib
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
NAIVE = {"sr4": "bicubic", "inpaint-box": "nearest pixel", "inpaint-random": "nearest pixel"}
COLUMNS = {("dps", "Absolute"): "DPS, published step", ("dps", "Relative"): "DPS, Polyak's step", ("dmap", "Relative"): "DMAP"}


def mean(rows, name):
    return sum(float(r[name]) for r in rows) / len(rows)


def main():
    runs = collections.defaultdict(dict)  # (task, method, unit, samples) -> settings -> {photo: row}
    for path in sys.argv[1:]:
        for row in csv.DictReader(open(path), delimiter="\t"):
            unit = row["zeta"].split("(")[0]
            settings = (row["steps"], row["inner"], row["zeta"], row.get("whiten", "0"))
            runs[row["task"], row["method"], unit, row["samples"]].setdefault(settings, {})[row["photo"]] = row
    tasks = list(dict.fromkeys(task for task, _, _, samples in runs if samples == "1"))
    lines = [
        "Mean PSNR in dB (SSIM of the luma) over the centre 256x256 pixels of photographs that the prior has not seen, noise 0.025, seed 0,",
        "one sample, 56 network passes (forward evaluations plus VJPs) for every method. DMAP: 6 levels, K = 5, zeta 0.4, its default. Blurs by the",
        "whitened residual, but for DPS as published.",
        "",
        "| task | photos | naive | " + " | ".join(COLUMNS.values()) + " | DMAP's residual over the noise |",
        "| --- | --- | --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    seconds = []
    for task in tasks:
        best = {}
        for column in COLUMNS:
            given = runs.get((task, *column, "1"))
            if given:
                best[column] = max(given.items(), key=lambda kv: mean(kv[1].values(), "psnr"))
        photos = set.intersection(*(set(rows) for _, rows in best.values()))
        cells = []
        for column in COLUMNS:
            if column not in best:
                cells.append("-")
                continue
            (_, _, zeta, _), rows = best[column]
            shown = [rows[p] for p in photos]
            note = f", zeta {zeta.split('(')[1].rstrip(')')}" if column[0] == "dps" else ""
            cells.append(f"{mean(shown, 'psnr'):.2f} ({mean(shown, 'ssim'):.3f}{note})")
        dmap = best["dmap", "Relative"][1]
        shown = [dmap[p] for p in photos]
        seconds += [float(r["seconds"]) for r in dmap.values()]
        lines.append(
            f"| {task} | {len(photos)} | {mean(shown, 'baseline'):.2f} ({NAIVE.get(task, 'measurement')}) | {' | '.join(cells)} "
            f"| {mean(shown, 'residual_ratio'):.2f} |"
        )
    lines += ["", f"{sorted(seconds)[len(seconds) // 2]:.0f} s per image on the two cores of the record."]
    for (task, method, _, samples), given in runs.items():
        for rows in given.values():
            if samples != "1":
                single = [runs[task, method, "Relative", "1"][k][p] for k in given for p in rows]
                lines.append(
                    f"The mean of {samples} samples (`--samples {samples}`), {task} by {method} over {len(rows)} photographs: {mean(rows.values(), 'psnr'):.2f} dB, "
                    f"one sample {mean(single, 'psnr'):.2f} dB, {NAIVE.get(task, 'measurement')} {mean(rows.values(), 'baseline'):.2f} dB."
                )
    text = README.read_text()
    before, rest = text.split("<!-- results -->")
    after = rest.split("<!-- end of results -->")[1]
    README.write_text(f"{before}<!-- results -->\n" + "\n".join(lines) + f"\n<!-- end of results -->{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
