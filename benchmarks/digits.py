"""The table of ``docs/results/digits.md``: accuracy and skip of every variant over three seeds.

    python benchmarks/digits.py --store DIR --out docs/results/digits.md

Each cell is a run of the shipped recipe with overrides, by the command line that users have.
The runs share one store, so that a seed's data, alignment, ARank and dense twin are computed
once; killed, the same command goes on where it was.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "γ-MoD 34 %, layers by ARank": (),
    "γ-MoD 51 %, layers by ARank": ("@digits-gamma-51",),
    "p-MoD": ("@digits-p-mod",),
    "γ-MoD 34 %, as many layers at random": ("mod.layers.policy=random",),
    "γ-MoD 34 %, all layers": ("mod.layers.policy=all", "mod.layers.always_dense=[]"),
}
"""Name to overrides of the recipe ``digits``; one that starts with ``@`` is another recipe."""


def main() -> None:
    """Run every variant with every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rows = {
        name: [run(overrides, seed, args.store) for seed in args.seeds]
        for name, overrides in VARIANTS.items()
    }
    args.out.write_text(page(rows, args.seeds))


def run(overrides: Sequence[str], seed: int, store: str) -> dict[str, Any]:
    """One run; returns the figures that ``gammaray run --json`` prints."""
    recipes = [text[1:] for text in overrides if text.startswith("@")] or ["digits"]
    values = [text for text in overrides if not text.startswith("@")]
    command = [sys.executable, "-m", "orchestrator.cli", "run", recipes[0], f"seed={seed}"]
    done = subprocess.run(
        [*command, *values, f"mod.layers.seed={seed}", "--store", store, "--json"]
        if recipes[0] != "digits-p-mod"
        else [*command, *values, "--store", store, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))
