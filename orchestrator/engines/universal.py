"""DeepSpeed checkpoints of one number of ranks, loaded by another."""

import argparse
import contextlib
import io
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workloads.training import Ranks

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
        if ranks.rank == leader:
            _convert(folder, Path(scratch, "universal"))
        copies = ranks.gather(scratch)
        yield Path(copies[leader], "universal")
        ranks.gather(None)


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
