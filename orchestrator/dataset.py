"""Builds the shards of a dataset: few records in this process, many by Ray Data."""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.ray_connection import connect
from workloads.data import Build, Part, Summary, write_batches
from workloads.data.files import is_on_this_machine
from workloads.data.shards import SCHEMA
from workloads.errors import DataError

RECORDS_HERE = 8_192
"""Up to so many records, a process is done before Ray Data has started its workers."""

Progress = Callable[[int, int], None]
"""Hears how many of how many records are done."""


def build_dataset(build: Build, path: Path | None, progress: Progress | None = None) -> Summary:
    """Check every record of a source, and write its shard; the bytes do not depend on how.

    Args:
        build: The source, its images and what to do about bad ones.
        path: Where the shard belongs, see `write_batches`; None checks and writes nothing.
        progress: Told after every batch.

    Returns:
        What the dataset holds.

    Raises:
        DataError: For the first record or image that cannot be used; nothing is written.
    """
    parts = build.parts()
    total = sum(part.records for part in parts)
    summary = Summary()

    def counted() -> Iterator[pa.RecordBatch]:
        with_rows = path is not None
        is_small = total <= RECORDS_HERE
        built = _built_here(build, parts) if is_small else _built_by_ray(build, parts, with_rows)
        for batch, more in built:
            summary.add(more)
            if progress is not None:
                progress(summary.conversations, total)
            yield batch

    if path is None:
        for _ in counted():
            pass
    else:
        write_batches(counted(), path)
    return summary


def _built_here(build: Build, parts: Sequence[Part]) -> Iterator[tuple[pa.RecordBatch, Summary]]:
    for part in parts:
        yield from build.batches(part)


def _built_by_ray(
    build: Build, parts: Sequence[Part], with_rows: bool
) -> Iterator[tuple[pa.RecordBatch | None, Summary]]:
    """Batches in the order of the source, whichever worker has made them.

    A fault is passed on as a row, too, so that the first one of the source is raised and not the
    first one found.
    """
    import ray.data

    connect(None, uses_gpus=False)
    _quieten(ray.data.DataContext.get_current())
    rows = ray.data.from_items([asdict(part) for part in parts], override_num_blocks=len(parts))
    work: Any = partial(_build_parts, build=build, with_rows=with_rows)
    built = rows.map_batches(work, batch_size=1, batch_format="pyarrow", **_where(build))
    tables: Any = built.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        for row in range(table.num_rows):
            batch, figures, fault = (column[row] for column in table.columns)
            if fault.is_valid:
                raise pickle.loads(fault.as_py())
            rows_of_shard = (
                pa.ipc.read_record_batch(batch.as_buffer(), SCHEMA) if with_rows else None
            )
            yield rows_of_shard, pickle.loads(figures.as_py())


def _build_parts(table: pa.Table, *, build: Build, with_rows: bool) -> Iterator[pa.Table]:
    """In a worker: a row per batch, serialised, since Ray Data has types of its own."""
    for part in table.to_pylist():
        try:
            for batch, summary in build.batches(Part(**part)):
                content = batch.serialize().to_pybytes() if with_rows else None
                yield _row(content, pickle.dumps(summary), None)
        except DataError as error:
            yield _row(None, None, pickle.dumps(error))


def _row(batch: bytes | None, summary: bytes | None, fault: bytes | None) -> pa.Table:
    values = {"batch": batch, "summary": summary, "fault": fault}
    binary = pa.large_binary()
    return pa.table({name: pa.array([value], binary) for name, value in values.items()})


def _where(build: Build) -> dict[str, Any]:
    """Files that only this machine may see are read here; others, on any."""
    if not (is_on_this_machine(build.source) or is_on_this_machine(build.images)):
        return {}
    import ray

    return {"label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()}}


def _quieten(context: Any) -> None:  # noqa: ANN401 - Ray's
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
