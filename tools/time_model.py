"""Fits the time model of `dmap plan` and `dmap bench` to measured nodes, and says how good it is.

    python tools/time_model.py benches/records/2026-11-28-h200/rows.jsonl.gz [--dmap target/release/dmap] [--write]

A record has the rows of `dmap bench --json --only nodes` (adm-256 and sd2) and `--only steps`. The work of
each node comes from `dmap plan --nodes`. Per kernel, `start + operations / (rate * fill) + bytes of
small tensors / a bandwidth + bytes of large ones / another` is fitted by least squares on relative
errors, no constant below zero; `slots`, the blocks that run at a time, are the best of a few. The time between
nodes is what steps take beyond their nodes. With --write the constants go to src/cli/time_model.tsv.

Checks: the nodes of one model by constants of the other, and whole steps that were measured, of which
adm-512 and all batches above 1 were not fitted. Needs numpy and scipy.
"""

import argparse
import collections
import gzip
import json
import math
import pathlib
import re
import statistics
import subprocess
import tempfile

import numpy
from scipy.optimize import nnls

TABLE = pathlib.Path(__file__).resolve().parents[1] / "src/cli/time_model.tsv"
COLUMNS = ["start_us", "tflops", "cached_tbs", "memory_tbs"]
# Blocks at a time on 132 multiprocessors: one to eight each, and so many that every block counts.
SLOTS = [132, 264, 396, 528, 1056]
# Kernels with fewer measured nodes share a row.
FEWEST = 6


def planned(dmap, model, size, batch):
    """The nodes of a DPS step, as `dmap plan` has them."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "nodes.jsonl"
        flags = ["--model", model, "--size", str(size), "--batch", str(batch), "--precision", "bf16", "--method", "dps"]
        subprocess.run([dmap, "plan", *flags, "--nodes", path], check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["graph"] == "step"]


def measured(record):
    """Microseconds of the nodes by model, and milliseconds of the steps by (model, size, batch)."""
    nodes, steps, model = collections.defaultdict(list), {}, None
    for line in gzip.open(record, "rt"):
        row = json.loads(line)
        if row["row"] == "sum of nodes":
            model = re.match(r"dps of (\S+),", row["name"])[1]
        elif row["row"] == "node" and not row["error"]:
            nodes[model].append(row)
        elif row["row"] == "step" and row["method"] == "dps" and not row["error"]:
            steps[row["model"], row["size"], row["batch"]] = row["ms_per_step"]
    return nodes, steps


def joined(plan, rows):
    """Planned nodes with their measured time. Nodes that the program records in another way today are left
    out."""
    key = lambda row: (row["name"], row["kernels"], round(row["operations"]))
    waiting = collections.defaultdict(list)
    for row in rows:
        waiting[key(row)].append(row["us"])
    found = [{**node, "us": waiting[key(node)].pop()} for node in plan if waiting[key(node)]]
    return found


def features(node, slots):
    """What the constants multiply: 1 and the inverse rates, in microseconds."""
    blocks = node["blocks"]
    fill = blocks / (math.ceil(blocks / slots) * slots)
    return [1.0, node["operations"] / fill / 1e6, node["cached_bytes"] / 1e6, node["memory_bytes"] / 1e6]


def fitted(nodes):
    """The constants of a kernel: slots and the four coefficients."""
    best = None
    for slots in SLOTS:
        rows = numpy.array([features(n, slots) for n in nodes])
        weights = 1.0 / numpy.array([n["us"] for n in nodes])
        # Columns of one magnitude.
        size = numpy.maximum(numpy.abs(rows * weights[:, None]).max(axis=0), 1e-30)
        found, error = nnls(rows * weights[:, None] / size, numpy.ones(len(nodes)))
        if best is None or error < best[0] - 1e-9:
            best = (error, slots, found / size)
    return best[1], best[2]


def all_tiles(kernel):
    """The name of a product without its tile; none of another kernel."""
    found = re.match(r".*?mma", kernel)
    return found and found[0]


def fit(nodes):
    """The constants of every kernel with enough nodes, of products in any tile, and of all others
    together."""
    families = collections.defaultdict(list)
    for node in nodes:
        families[node["kernel"]].append(node)
        if all_tiles(node["kernel"]):
            families[all_tiles(node["kernel"])].append(node)
    model = {kernel: fitted(members) for kernel, members in families.items() if len(members) >= FEWEST}
    model["other"] = fitted([n for n in nodes if row_of(model, n["kernel"]) == "other"])
    return model


def row_of(model, kernel):
    """The row of the table that has the constants of a kernel."""
    return next((name for name in (kernel, all_tiles(kernel)) if name in model), "other")


def predicted(model, node):
    slots, constants = model[row_of(model, node["kernel"])]
    return float(numpy.dot(features(node, slots), constants))


def step(model, gap, nodes):
    """Milliseconds of a step."""
    return sum(predicted(model, n) + gap for n in nodes if n["launches"]) / 1e3


def table(model, gap, nodes, record):
    """The lines of time_model.tsv."""
    inverse = lambda value: "inf" if value <= 1e-9 else f"{1.0 / value:.4g}"
    lines = [f"# Written by tools/time_model.py from {record}", "\t".join(["kernel", "slots", *COLUMNS, "nodes", "error"])]
    for kernel, (slots, constants) in sorted(model.items()):
        own = [n for n in nodes if kernel in (n["kernel"], all_tiles(n["kernel"]), row_of(model, n["kernel"]))]
        errors = [abs(predicted(model, n) / n["us"] - 1.0) for n in own]
        cells = [f"{constants[0]:.3g}", *map(inverse, constants[1:]), str(len(own)), f"{statistics.median(errors):.2f}"]
        lines.append("\t".join([kernel, str(slots), *cells]))
    lines.append("\t".join(["gap", "1", f"{gap:.3g}", "inf", "inf", "inf", "0", "0"]))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=pathlib.Path)
    parser.add_argument("--dmap", default="target/release/dmap")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows, steps = measured(args.record)
    sizes = {"adm-256": 256, "adm-512": 512, "sd2": 512}
    nodes, gaps = {}, []
    for model, of_model in rows.items():
        nodes[model] = joined(planned(args.dmap, model, sizes[model], 1), of_model)
        share = sum(n["us"] for n in nodes[model]) / sum(r["us"] for r in of_model)
        print(f"{model}: {len(nodes[model])} of {len(of_model)} nodes have a counterpart, {100 * share:.0f} % of the time")
        between = 1e3 * steps[model, sizes[model], 1] - sum(r["us"] for r in of_model)
        gaps.append(between / len(of_model))
    gap, every = statistics.mean(gaps), [n for of_model in nodes.values() for n in of_model]
    model = fit(every)
    for name, of_model in nodes.items():
        others = fit([n for other, found in nodes.items() if other != name for n in found])
        for whose, constants in (("all", model), ("the other model's", others)):
            total = sum(predicted(constants, n) for n in of_model) / sum(n["us"] for n in of_model)
            error = statistics.median(abs(predicted(constants, n) / n["us"] - 1.0) for n in of_model)
            print(f"{name} by constants of {whose}: sum of nodes {total:.3f} of measured, a node off by {error:.2f} (median)")
    for (name, size, batch), ms in steps.items():
        found = step(model, gap, planned(args.dmap, name, size, batch))
        print(f"step of {name}, {size}x{size}, batch {batch}: {found:.1f} ms, measured {ms:.1f} ({found / ms:.3f})")
    text = table(model, gap, every, args.record)
    if args.write:
        TABLE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
