"""Writes the README's tables of results from the rows that `cargo bench --bench restoration` left.

    python tools/results_table.py results benches/records/2026-11-27-epyc-2core/restoration.tsv
    python tools/results_table.py budget benches/records/2026-11-30-epyc-2core/budget.tsv
    python tools/results_table.py peers benches/records/2026-11-30-epyc-2core/peers.tsv

Replaces the text between `<!-- results -->` and `<!-- end of results -->` in README.md, or between
the same marks of the other names. `results` has one table per noise: a method is shown over the
photographs that every method of the table restored. `budget` compares levels and views of DPIR at
equal passes, `peers` methods at equal passes and several noises.
"""

import collections
import csv
import pathlib
import re
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
NAIVE = {"sr4": "bicubic", "inpaint-box": "nearest pixel", "inpaint-random": "nearest pixel"}


def label(method):
    """The name of a column: `auto` chooses between two starts by the task."""
    return "auto" if "views=2" in method else method


def mean(rows, name):
    return sum(float(r[name]) for r in rows) / len(rows)


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def with_best(figures, best):
    """Cells of figures, the ones that equal `best` in bold; none is a dash."""
    return ["-" if f is None else f"**{f:.2f}**" if f == best else f"{f:.2f}" for f in figures]


def results_of_noise(noise, runs):
    """`runs` has the rows of one noise: task -> (method, steps) -> photo -> row."""
    methods = list(dict.fromkeys(m for per_method in runs.values() for m in per_method))
    rows = []
    for task, per_method in runs.items():
        photos = sorted(set.intersection(*(set(rows) for rows in per_method.values())))
        cells, best = [], max(mean([rows[p] for p in photos], "psnr") for rows in per_method.values())
        for method in methods:
            if method not in per_method:
                cells.append("-")
                continue
            shown = [per_method[method][p] for p in photos]
            [text] = with_best([mean(shown, "psnr")], best)
            cells.append(f"{text} ({mean(shown, 'ssim'):.3f}), {mean(shown, 'passes'):.0f} passes")
        baseline = mean([next(iter(per_method.values()))[p] for p in photos], "baseline")
        rows.append([task, str(len(photos)), f"{baseline:.2f} ({NAIVE.get(task, 'measurement')})", *cells])
    head = ["task", "photos", "naive", *(f"`{method}`, {steps} levels" for method, steps in methods)]
    return [f"Noise {noise}:", "", *markdown(head, rows), ""]


def results(rows):
    runs = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(dict)))
    for row in rows:
        runs[row["noise"]][row["task"]][label(row["method"]), row["steps"]][row["photo"]] = row
    lines = [
        "Mean PSNR in dB (SSIM of the luma) over the centre 256x256 pixels of photographs that neither the",
        "prior nor the settings have seen, by the prior inside, seed 0, one image of each. Passes are forward",
        "evaluations plus VJPs of the network; a VJP costs more than a forward.",
        "",
    ]
    for noise in sorted(runs, key=lambda n: (n != "0.025", float(n))):
        lines += results_of_noise(noise, runs[noise])
    return lines


def grouped(rows, key):
    """key -> task -> mean PSNR, and the tasks in the order of the rows."""
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        groups[key(row)][row["task"]].append(row)
    means = {k: {task: mean(of_task, "psnr") for task, of_task in tasks.items()} for k, tasks in groups.items()}
    return means, list(dict.fromkeys(row["task"] for row in rows))


def budget(rows):
    def key(row):
        views, steps = int(re.search(r"views=(\d+)", row["method"])[1]), int(row["steps"])
        return views * steps, steps, views

    means, tasks = grouped(rows, key)
    best = collections.defaultdict(float)
    for (passes, *_), of_task in means.items():
        for task, psnr in of_task.items():
            best[passes, task] = max(best[passes, task], psnr)
    table = []
    for passes, steps, views in sorted(means):
        of_task = means[passes, steps, views]
        cells = [with_best([of_task.get(task)], best[passes, task])[0] for task in tasks]
        table.append([str(passes), f"{steps} x {views}", *cells])
    return markdown(["passes", "levels x views", *tasks], table)


def peers(rows):
    def name(row):
        # Smaller last sigmas than the published one are those of `auto`.
        method = row["method"].split(":")[0]
        return "auto" if method == "dpir" and "to=0.01" in row["method"] else method

    means, tasks = grouped(rows, lambda row: (row["noise"], name(row)))
    methods = list(dict.fromkeys(name(row) for row in rows))
    table = []
    for noise in sorted({noise for noise, _ in means}, key=float):
        for task in tasks:
            naive = mean([r for r in rows if r["noise"] == noise and r["task"] == task], "baseline")
            figures = [naive, *(means[noise, method].get(task) for method in methods)]
            table.append([noise, task, *with_best(figures, max(f for f in figures if f is not None))])
    return markdown(["noise", "task", "naive", *methods], table)


def main():
    what, *paths = sys.argv[1:]
    rows = [row for path in paths for row in csv.DictReader(open(path), delimiter="\t")]
    lines = {"results": results, "budget": budget, "peers": peers}[what](rows)
    text = README.read_text()
    before, rest = text.split(f"<!-- {what} -->")
    after = rest.split(f"<!-- end of {what} -->")[1]
    table = "\n".join(lines).rstrip()
    README.write_text(f"{before}<!-- {what} -->\n{table}\n<!-- end of {what} -->{after}")
    print(table)


if __name__ == "__main__":
    main()
