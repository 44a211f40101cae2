"""What a sweep costs beside separate runs, and what it finds beside random search.

    python benchmarks/sweep.py --store /tmp/sweep --out docs/results/sweep.md
    python benchmarks/sweep.py --store /tmp/sweep --trials 4 --separate 1

A TPE sweep over the embedded model in a fresh store, whose time is that of the command; then the
same number of trials at random, in the same store; then some of the TPE trials as separate runs,
each in a store of its own, from data to measurement. Each command runs alone.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.sweep.launching import MEASURED
from orchestrator.sweep.values import overrides

ROOT = Path(__file__).parents[1]
SPACE = {
    "mod.capacity_ratio": {"uniform": [0.2, 0.9]},
    "mod.layers.fraction": {"choice": [0.5, 0.75, 0.9]},
    "mod.aux_weight": {"choice": [0.0, 0.01, 0.03]},
}


def gammaray(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run a command; returns its JSON document and the seconds it took."""
    command = [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]
    start_s = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    seconds = time.monotonic() - start_s
    return json.loads(done.stdout or "{}"), seconds


def sweep(store: Path, algorithm: str, args: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """A sweep over `SPACE` with a smaller budget per trial."""
    section = {
        "space": SPACE,
        "algorithm": algorithm,
        "trials": args.trials,
        "seed": args.seed,
        "proxy": {"steps": args.steps, "questions": args.questions},
    }
    text = f"sweep={json.dumps(section)}"
    document, seconds = gammaray("sweep", "digits", text, "--store", str(store / "shared"))
    return document["sweep"], seconds


def separate(store: Path, result: Mapping[str, Any], count: int) -> list[float]:
    """Seconds of trials as runs that share nothing."""
    every = max(1, len(result["trials"]) // max(count, 1))
    times = []
    for trial in result["trials"][::every][:count]:
        given = overrides({**trial["values"], **result["proxy"]})
        steps = [text for step in MEASURED for text in ("--to", step)]
        place = store / f"separate-{trial['number']}"
        times.append(gammaray("run", "digits", *given, *steps, "--store", str(place))[1])
    return times


def page(
    args: argparse.Namespace,
    found: Mapping[str, tuple[Mapping[str, Any], float]],
    alone: Sequence[float],
) -> str:
    """The results as Markdown."""
    tpe, tpe_s = found["optuna"]
    one_s = statistics.median(alone) if alone else float("nan")
    count, all_s = len(tpe["trials"]), one_s * len(tpe["trials"])
    lines = [
        "# Sweeps: what one costs, and what it finds",
        "",
        "```",
        f"python benchmarks/sweep.py {' '.join(sys.argv[1:])}",
        "```",
        "",
        f"{time.strftime('%Y-%m-%d')}, commit {_commit()}, {os.cpu_count()} CPU cores "
        f"({platform.machine()}), Python {platform.python_version()}, no GPU; load at the end "
        f"{os.getloadavg()[1]:.1f}. {args.trials} trials of {args.steps} fine-tuning steps and "
        f"{args.questions} questions, on the embedded model.",
        "",
        "| | |",
        "|---|---|",
        f"| TPE sweep of {count} trials, from an empty store | {tpe_s:.0f} s |",
        f"| one of its trials as a separate run (median of {len(alone)}) | {one_s:.0f} s |",
        f"| {count} separate runs, by that median | {all_s:.0f} s |",
        f"| sweep over separate runs | {tpe_s / all_s:.2f} |",
        "",
        "| hypervolume after | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for number in range(args.trials):
        volumes = [
            f"{result['hypervolume'][number]:.4f}" if number < len(result["hypervolume"]) else ""
            for result, _ in found.values()
        ]
        lines.append(f"| {number + 1} | {' | '.join(volumes)} |")
    for name, (result, _) in found.items():
        lines += ["", f"## {name}", "", *_table(result)]
    return "\n".join(lines) + "\n"


def _table(result: Mapping[str, Any]) -> list[str]:
    paths = list(SPACE)
    lines = [
        f"| trial | {' | '.join(paths)} | accuracy | points | compute | prefill |",
        "|---" * (len(paths) + 5) + "|",
    ]
    for trial in result["trials"]:
        values = [f"{trial['values'][path]:.3g}" for path in paths]
        known = trial["figures"]
        marks = ("●" if trial["number"] in result["front"] else "") + (
            " winner" if trial["number"] == result["winner"] else ""
        )
        lines.append(
            f"| {trial['number']} {marks} | {' | '.join(values)} | {known['accuracy']:.1%} | "
            f"{-known['accuracy_drop']:+.1f} | × {known['tflops']:.2f} | "
            f"× {known['prefill']:.2f} |"
            if trial["state"] == "finished"
            else f"| {trial['number']} | {' | '.join(values)} | {trial['state']} | | | |"
        )
    return lines


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="an empty folder")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100, help="fine-tuning steps of a trial")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--separate", type=int, default=3, help="trials run as separate runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {name: sweep(args.store, name, args) for name in ("optuna", "random")}
    text = page(args, found, separate(args.store, found["optuna"][0], args.separate))
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
