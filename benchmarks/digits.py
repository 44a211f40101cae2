"""The table of ``docs/results/digits.md``: accuracy and skip of every variant over three seeds.

    python benchmarks/digits.py --store DIR --out docs/results/digits.md

Each cell is a run of the shipped recipe with overrides, by the command line that users have.
The runs share one store, so that a seed's data, alignment, ARank and dense twin are computed
once; killed, the same command goes on where it was.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Run = Mapping[str, Any]

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "γ-MoD 34 %, layers by ARank": (),
    "γ-MoD 51 %, layers by ARank": ("mod.capacity_ratio=0.4",),
    "p-MoD, layers by ratio decay": ("mod={method: p_mod}",),
    "γ-MoD 34 %, router from random weights": ("mod.warm_start=0",),
    "γ-MoD 34 %, as many layers at random": ("mod.layers.policy=random",),
    "γ-MoD 34 %, all layers": ("mod.layers.policy=all", "mod.layers.always_dense=[]"),
}
"""Name to overrides of the recipe ``digits``."""

MEASURED = ("evaluate-dense", "evaluate-mod", "efficiency")

COLUMNS: Mapping[str, tuple[str, str]] = {
    "dense accuracy": ("accuracy", "dense"),
    "MoD accuracy": ("accuracy", "mod"),
    "difference": ("accuracy", "change"),
    "skip of routable, nominal": ("skip_routable_nominal", "mod"),
    "measured": ("skip_routable_measured", "mod"),
    "skip of all, nominal": ("skip_all_nominal", "mod"),
    "measured ": ("skip_all_measured", "mod"),
    "FLOPs, closed form": ("tflops_closed", "change"),
    "FLOPs, counted": ("tflops_counted", "change"),
    "KV bytes, closed form": ("kv_bytes_closed", "change"),
    "prefill time": ("prefill_s", "change"),
    "training step time": ("training_step_s", "change"),
}
"""Heading to a row's key and column in the summary of a run."""

SHARES = 7
"""So many of the first columns are shares; the rest are ratios of MoD to dense."""


def main() -> None:
    """Run every variant with every seed; the table grows a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    table: dict[str, list[Run]] = {}
    for name, overrides in VARIANTS.items():
        table[name] = [run(overrides, seed, args.store) for seed in args.seeds]
        args.out.write_text(page(table, args.seeds))


def run(overrides: Sequence[str], seed: int, store: str) -> Run:
    """One run; returns the summary that ``gammaray run --json`` prints."""
    values = [f"seed={seed}", *overrides]
    if any("random" in value for value in overrides):
        values.append(f"mod.layers.seed={seed}")
    command = [sys.executable, "-m", "orchestrator.cli", "run", "digits", *values]
    steps = [word for step in MEASURED for word in ("--to", step)]
    done = subprocess.run(
        [*command, *steps, "--store", store, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def page(table: Mapping[str, Sequence[Run]], seeds: Sequence[int]) -> str:
    """The results as Markdown."""
    runs = [run for runs in table.values() for run in runs]
    questions = [sum(kind["questions"] for kind in run["kinds"]) for run in runs]
    head = ["variant", "MoD layers", *(name.strip() for name in COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [f"| {name} | {_layers(runs)} | {_cells(runs)} |" for name, runs in table.items()]
    return "\n".join(
        [
            "# Digits: what each variant keeps and saves",
            "",
            f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}; "
            f"{min(questions)} held-out questions each. Every MoD model is compared with the dense "
            "twin fine-tuned from the same aligned model on the same batches. Shares are in "
            "per cent, costs are MoD / dense; times are medians of ratios measured side by side in "
            "one process.",
            "",
            *lines,
            "",
            "```",
            "python benchmarks/digits.py --store DIR --out docs/results/digits.md",
            "```",
            "",
            f"Commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores "
            f"({platform.machine()}), no GPU, Python {platform.python_version()}.",
            "",
        ]
    )


def _cells(runs: Sequence[Run]) -> str:
    cells = []
    for number, (key, column) in enumerate(COLUMNS.values()):
        values = [_value(run, key, column) for run in runs]
        scale, digits = (100.0, 1) if number < SHARES else (1.0, 2)
        mean = statistics.mean(values) * scale
        spread = statistics.stdev(values) * scale if len(values) > 1 else 0.0
        cells.append(f"{mean:.{digits}f} ± {spread:.{digits}f}")
    return " | ".join(cells)


def _value(run: Run, key: str, column: str) -> float:
    (row,) = [row for row in run["rows"] if row["key"] == key]
    return float(row[column])


def _layers(runs: Sequence[Run]) -> str:
    chosen = dict.fromkeys(" ".join(map(str, run["mod_layers"])) for run in runs)
    return "; ".join(chosen)


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
