"""Writes the README's tables of results from the rows that `cargo bench --bench restoration` left.

    python tools/results_table.py results benches/records/2026-11-27-epyc-2core/restoration.tsv \
        benches/records/2026-11-30-epyc-2core/restoration.tsv
    python tools/results_table.py budget benches/records/2026-11-30-epyc-2core/budget.tsv
    python tools/results_table.py peers benches/records/2026-11-30-epyc-2core/peers.tsv \
        benches/records/2026-11-30-epyc-2core/peers-more.tsv
    python tools/results_table.py samples benches/records/2026-11-30-epyc-2core/samples.tsv
    python tools/results_table.py estimators benches/records/2026-11-30-epyc-2core/estimators.tsv
    python tools/results_table.py shots benches/records/2026-11-30-epyc-2core/estimators.tsv \
        benches/records/2026-11-30-epyc-2core/shots.tsv benches/records/2026-11-30-epyc-2core/shots-50.tsv

Replaces the text between `<!-- results -->` and `<!-- end of results -->` in README.md, or between
the same marks of the other names. `results` has one table per noise: a method is shown over the
photographs that every method of the table restored. `budget` compares levels and views of DPIR at
equal passes, `peers` methods at equal passes and several noises, `samples` samplers at equal passes,
`estimators` methods with and without a conditional score estimator, `shots` estimators of more and
fewer photos.
"""

import collections
import csv
import math
import pathlib
import re
import statistics
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
NAIVE = {"sr4": "bicubic", "inpaint-box": "nearest pixel", "inpaint-random": "nearest pixel"}


def name(row):
    """The name of a column: DPIR with other settings than published ones is what `auto` takes."""
    method = row["method"].split(":")[0]
    is_published = "from=0.384," in row["method"] and "views=1" in row["method"]
    return "auto" if method == "dpir" and not is_published else method


def label(row):
    """The head of a column: `auto`, or the method with all its options."""
    return "`auto`" if name(row) == "auto" else f"`{row['method']}`, {row['steps']} levels"


def mean(rows, column):
    return statistics.mean(float(r[column]) for r in rows)


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
    head = ["task", "photos", "naive", *methods]
    return [f"Noise {noise}:", "", *markdown(head, rows), ""]


def results(rows):
    runs = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(dict)))
    for row in rows:
        cell = runs[row["noise"]][row["task"]][label(row)]
        if any(r["method"] != row["method"] for r in cell.values()):
            # A later record has other settings of `auto`.
            cell.clear()
        cell[row["photo"]] = row
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


def lead(runs, best):
    """How far `auto` is ahead of the method `best`: the mean over photographs with its standard error."""
    ahead = [float(runs["auto"][p]["psnr"]) - float(runs[best][p]["psnr"]) for p in runs["auto"]]
    spread = statistics.stdev(ahead) if len(ahead) > 1 else math.nan
    return f"{statistics.mean(ahead):+.2f} ± {spread / len(ahead) ** 0.5:.2f}"


def peers(rows):
    runs = collections.defaultdict(lambda: collections.defaultdict(dict))
    # Of DMAP the form with more noise levels in the same passes.
    rows = [row for row in rows if not row["method"].startswith("dmap:k=5")]
    for row in rows:
        runs[float(row["noise"]), row["task"]][name(row)][row["photo"]] = row
    methods = list(dict.fromkeys(name(row) for row in rows))
    table = []
    for noise in sorted({noise for noise, _ in runs}):
        for task in dict.fromkeys(row["task"] for row in rows):
            of_cell = runs[noise, task]
            # A run that diverged has no PSNR.
            means = {m: mean(r.values(), "psnr") for m, r in of_cell.items()}
            sound = {m: v for m, v in means.items() if not math.isnan(v)}
            assert len({tuple(sorted(r)) for r in of_cell.values()}) == 1, f"{task} {noise}: not the same photographs"
            best = max((m for m in sound if m != "auto"), key=sound.get)
            naive = mean(of_cell["auto"].values(), "baseline")
            figures = [naive, *(sound.get(m) for m in methods)]
            table.append([f"{noise:g}", task, *with_best(figures, max(f for f in figures if f is not None)), lead(of_cell, best)])
    return markdown(["noise", "task", "naive", *methods, "lead of auto"], table)


def samples(rows):
    """One sample, the mean of all, and how much they differ."""
    runs = collections.defaultdict(list)
    for row in rows:
        runs[row["task"], name(row), row["steps"]].append(row)
    table = []
    for (task, method, steps), of_cell in runs.items():
        count = float(of_cell[0]["samples"])
        figures = [f"{mean(of_cell, 'passes') / count:.0f}", f"{mean(of_cell, 'sample_psnr'):.2f}", f"{mean(of_cell, 'psnr'):.2f}"]
        figures += [f"{mean(of_cell, column):.3f}" for column in ("deviation", "crps")]
        figures.append(f"{mean(of_cell, 'residual_ratio'):.2f}")
        table.append([task, f"`{method}`, {steps} levels", *figures])
    head = ["task", "method", "passes", "PSNR of a sample", "of their mean", "standard deviation", "CRPS", "residual / noise"]
    return markdown(head, table)


def estimators(rows):
    """What a conditional score estimator changes, photograph by photograph."""
    runs = collections.defaultdict(dict)
    for row in rows:
        method, *estimator = row["method"].split("+")
        runs[row["task"].split(":")[0], method, row["steps"]].setdefault((bool(estimator), row["samples"] != "1"), {})[row["photo"]] = row
    table = []
    for (task, method, steps), cells in runs.items():
        for is_with in (False, True):
            one, many = cells.get((is_with, False), {}), cells.get((is_with, True), {})
            if not one:
                continue
            error = lambda values: statistics.stdev(values) / len(values) ** 0.5
            psnr = [float(r["psnr"]) for r in one.values()]
            plain, gain = cells.get((False, False), {}), "-"
            if is_with and plain:
                gains = [float(r["psnr"]) - float(plain[p]["psnr"]) for p, r in one.items() if p in plain]
                gain = f"{statistics.mean(gains):+.2f} ± {error(gains):.2f}"
            figures = [f"{statistics.mean(psnr):.2f} ± {error(psnr):.2f}", gain, f"{mean(one.values(), 'ssim'):.3f}"]
            figures.append(f"{mean(one.values(), 'residual_ratio'):.2f}")
            figures.append(f"{mean(many.values(), 'deviation'):.3f}" if many else "-")
            figures += [f"{mean(one.values(), 'passes'):.0f}", str(len(one))]
            table.append([task, f"`{method}`, {steps} levels", "yes" if is_with else "no", *figures])
    head = ["task", "method", "CSE", "PSNR", "gain", "SSIM", "residual / noise", "standard deviation", "passes", "photos"]
    return markdown(head, table)


def shots(rows):
    """DPS in sr4 by the number of photos that its estimator was trained with, photo by photo."""
    runs = collections.defaultdict(dict)
    for row in rows:
        if row["task"] == "sr4" and row["method"].startswith("dps") and row["samples"] == "1":
            trained = {"estimators": 100, "shots-50": 50, "shots": 25}[row["file"]] if row["method"].endswith("+cse") else 0
            runs[trained][row["photo"]] = float(row["psnr"])
    error = lambda values: statistics.stdev(values) / len(values) ** 0.5
    table, before = [], None
    for trained, psnr in sorted(runs.items()):
        gains = [psnr[p] - before[p] for p in psnr] if before else []
        gain = f"{statistics.mean(gains):+.2f} ± {error(gains):.2f}" if gains else "-"
        figure = f"{statistics.mean(psnr.values()):.2f} ± {error(list(psnr.values())):.2f}"
        table.append([str(trained or "no estimator"), figure, gain])
        before = psnr
    return markdown(["photos of the training", "PSNR", "gain over the row above"], table)


def main():
    what, *paths = sys.argv[1:]
    files = [(pathlib.Path(path).stem, csv.DictReader(open(path), delimiter="\t")) for path in paths]
    rows = [{**row, "file": name} for name, reader in files for row in reader]
    tables = {f.__name__: f for f in (results, budget, peers, samples, estimators, shots)}
    lines = tables[what](rows)
    text = README.read_text()
    before, rest = text.split(f"<!-- {what} -->")
    after = rest.split(f"<!-- end of {what} -->")[1]
    table = "\n".join(lines).rstrip()
    README.write_text(f"{before}<!-- {what} -->\n{table}\n<!-- end of {what} -->{after}")
    print(table)


if __name__ == "__main__":
    main()
