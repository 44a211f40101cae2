"""``python -m workloads.pretraining --out DIR``: make the embedded base model again."""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from workloads.pretraining.pretrain import pretrain
from workloads.pretraining.recipe import PretrainingRecipe


class _Lines:
    """Writes what happens to standard error, a line each."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self.message(f"{note} {done}/{total} {unit}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.message(
            f"{step}: " + " ".join(f"{name} {value:.4f}" for name, value in values.items())
        )

    def message(self, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self._start:7.1f} s  {text}\n")


def main() -> None:
    """Parse the arguments and pre-train."""
    parser = argparse.ArgumentParser(prog="python -m workloads.pretraining", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the model")
    parser.add_argument("--seed", type=int, default=PretrainingRecipe().seed)
    args = parser.parse_args()
    pretrain(args.out, PretrainingRecipe(seed=args.seed), _Lines())


if __name__ == "__main__":
    main()
