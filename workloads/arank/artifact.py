"""Ranks on disk: one Parquet file, a row for each sample, layer and head."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workloads.arank.errors import ARankError
from workloads.arank.profile import ARankProfile
from workloads.arank.rank import RankOptions

FILE_NAME = "ranks.parquet"
_OPTIONS = b"arank.options"

SCHEMA = pa.schema(
    {
        "sample": pa.int32(),
        "id": pa.string(),
        "task": pa.string(),
        "tokens": pa.int32(),
        "layer": pa.int32(),
        "head": pa.int32(),
        "rank": pa.int32(),
    }
)


def write_profile(profile: ARankProfile, ids: Sequence[str], folder: Path) -> None:
    """Write ``ranks.parquet`` into ``folder``; equal profiles give equal bytes.

    Args:
        profile: What was measured.
        ids: One name per sample, for a reader who wants to look at it.
        folder: An existing folder.
    """
    places = np.indices(profile.ranks.shape).reshape(3, -1)
    rows = profile.ranks[0].size
    columns = [
        places[0],
        np.repeat(np.asarray(ids, dtype=object), rows),
        np.repeat(np.asarray(profile.tasks, dtype=object), rows),
        np.repeat(profile.lengths, rows),
        places[1],
        places[2],
        profile.ranks.reshape(-1),
    ]
    arrays = [
        pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    options = json.dumps(profile.options.to_json(), sort_keys=True).encode()
    schema = SCHEMA.with_metadata({_OPTIONS: options})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / FILE_NAME)


def read_profile(folder: Path) -> ARankProfile:
    """Read what `write_profile` wrote: the same integers, hence the same digest.

    Raises:
        ARankError: If the file is missing or not one of ours.
    """
    path = folder / FILE_NAME
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ARankError(f"{path} is not a readable profile ({error}); measure again") from error
    metadata = table.schema.metadata or {}
    if not table.schema.equals(SCHEMA) or _OPTIONS not in metadata:
        raise ARankError(f"{path} is a Parquet file but no profile of this version; measure again")
    shape = tuple(int(table[axis][-1].as_py()) + 1 for axis in ("sample", "layer", "head"))
    firsts = range(0, table.num_rows, shape[1] * shape[2])
    return ARankProfile.from_ranks(
        table["rank"].to_numpy().reshape(shape),
        [table["task"][row].as_py() for row in firsts],
        [table["tokens"][row].as_py() for row in firsts],
        RankOptions.from_json(json.loads(metadata[_OPTIONS])),
    )
