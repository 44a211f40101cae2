"""DeepSpeed checkpoints of one number of ranks, loaded by another."""

import argparse
import contextlib
import io
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workloads.training import Ranks

_CONVERTED = "converted"
_LOOK_S = 0.2

_SHARD = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")


def ranks_of(folder: Path) -> int:
    """How many ranks wrote the optimizer's shards in a checkpoint folder; 0 without ZeRO."""
    return sum(bool(_SHARD.search(file.name)) for file in folder.iterdir())


@contextmanager
def universal_checkpoint(folder: Path, ranks: Ranks) -> Iterator[Path]:
    """Give all ranks of a machine one copy of a checkpoint that any number of ranks can load.

    All ranks call this together. The copy takes as much disk as the checkpoint, for a moment twice
    as much, and is removed in the end.

    Args:
        folder: Files of all ranks as DeepSpeed wrote them; stays as it is.
        ranks: Who loads.
    """
    hosts = ranks.gather(socket.gethostname())
    leader = hosts.index(hosts[ranks.rank])
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        place = Path(ranks.gather(scratch)[leader])
        if ranks.rank == leader:
            _convert(folder, place / "universal")
            (place / _CONVERTED).touch()
        # A conversion may take longer than the others may wait in a collective.
        while not (place / _CONVERTED).exists():
            if not place.exists():
                raise RuntimeError(f"rank {leader} could not convert the checkpoint for this one")
            time.sleep(_LOOK_S)
        yield place / "universal"
        ranks.gather(None)


def load_groups(optimizer: Any, _: str, folder: str) -> None:  # noqa: ANN401 - untyped
    """Load weights and optimizer states of ZeRO 1 and 2, as DeepSpeed's own method does.

    That one (0.19) fails on a rank that holds nothing of a parameter group, as happens to groups
    smaller than twice the number of ranks.

    Args:
        optimizer: DeepSpeed's.
        folder: The universal checkpoint.
    """
    from deepspeed.utils.tensor_fragment import map_to_flat_opt_states

    place = Path(folder, "zero")
    # DeepSpeed's pickle, made here of files whose digests matched.
    saved = torch.load(place / "optimizer_state.pt", weights_only=False)
    optimizer._load_global_state(saved)
    groups = zip(
        optimizer.optimizer.param_groups, saved["param_groups"], optimizer.bit16_groups, strict=True
    )
    for group, loaded, weights in groups:
        here = [weight for weight in weights if weight._hp_mapping is not None]
        steps = [
            weight.load_hp_checkpoint_state(str(place / optimizer.param_names[weight]), 0, 1)
            for weight in here
        ]
        if here:
            flat, states = group["params"][0], optimizer.optimizer.state
            states[flat]["step"] = steps[0]
            keys = {key for weight in here for key in weight._hp_mapping.get_optim_state_keys()}
            map_to_flat_opt_states(flat, weights, states, keys)
        group.update({name: value for name, value in loaded.items() if name != "params"})


def _convert(folder: Path, copy: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = argparse.Namespace(
        input_folder=os.fspath(folder),
        output_folder=os.fspath(copy),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It prints every step of its work and shows progress bars.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
