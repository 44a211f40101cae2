"""Train without Ray: ``torchrun --nproc-per-node 2 -m workloads.training CONFIG --model ...``."""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from workloads.errors import WorkloadError
from workloads.training.checkpoints.folder import FolderObjects
from workloads.training.checkpoints.store import Checkpoints
from workloads.training.config import TrainingConfig
from workloads.training.engine import TorchEngine
from workloads.training.errors import TrainingStoppedError
from workloads.training.ranks import Ranks
from workloads.training.session import Session


class _Lines:
    """A reporter that prints."""

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        print(f"{done} of {total} {unit} {note}".rstrip(), flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Leave metrics to ``history.json``."""

    def message(self, text: str) -> None:
        print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train, and write the model and its history; run again, it goes on where it was stopped.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong configuration, 3 stopped in time.
    """
    given = _parser().parse_args(arguments)
    try:
        config = _read_config(given.config)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        print(f"{given.config}: {error}", file=sys.stderr)
        return 2
    is_launched = dist.is_torchelastic_launched()
    if is_launched and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if is_launched:
        dist.init_process_group()
    try:
        _train(given, config, Ranks.current())
    except TrainingStoppedError as error:
        print(error, file=sys.stderr)
        return 3
    except WorkloadError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if is_launched:
            dist.destroy_process_group()
    return 0


def _train(given: argparse.Namespace, config: TrainingConfig, ranks: Ranks) -> None:
    given.output.mkdir(parents=True, exist_ok=True)
    session = Session(model=given.model, shard=given.data, config=config, reporter=_Lines())
    checkpoints = Checkpoints(
        objects=FolderObjects(given.output),
        prefix="checkpoints",
        writer="training",
        ranks=ranks,
        warn=print,
    )
    weights, result = session.train(
        ranks,
        TorchEngine,
        checkpoints,
        stop_at_s=None if given.minutes is None else time.time() + 60.0 * given.minutes,
    )
    if weights is not None:
        session.write(given.output, weights, result)


def _read_config(path: Path) -> TrainingConfig:
    values: Any = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise TypeError(f"expected fields of a training, got {type(values).__name__}")
    return TrainingConfig.from_json(values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workloads.training", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML or JSON with fields of TrainingConfig")
    parser.add_argument(
        "--model", type=Path, required=True, help="model folder, dense or converted"
    )
    parser.add_argument("--data", type=Path, required=True, help="Arrow shard")
    parser.add_argument("--output", type=Path, required=True, help="folder for the result")
    parser.add_argument(
        "--minutes",
        type=float,
        help="save and stop after this long; exit code 3, which torchrun turns into 1",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
