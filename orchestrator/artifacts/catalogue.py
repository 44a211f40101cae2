"""All results of a run in a few objects, so that thousands of them need not be opened one by one.

Only a shortcut: which manifests there are is always asked of the store itself. Manifests never
change, so what was once copied from one stays true as long as it is there.
"""

import hashlib
import json
from collections import defaultdict
from contextlib import suppress
from typing import Any

from orchestrator.artifacts.key import StepKey
from orchestrator.artifacts.manifest import Manifest, committed, folder_of, from_json
from orchestrator.store import Store, StoreError

_EVERY = 500
"""New results after which a piece is written."""


class Catalogue:
    """What a run has used or made, written in pieces below ``runs/RUN/results``.

    Args:
        store: Where the run is.
        run_id: Which run.
        writer: Name of the owner that adds to it, unique in the run.
    """

    def __init__(self, store: Store, run_id: str, writer: str = "") -> None:
        self._store, self._prefix, self._writer = store, f"runs/{run_id}/results", writer
        self._records = self._load()
        # With nothing to save by it, what is there is asked for key by key.
        self._present = self._list() if self._records else {}
        self._new: list[Manifest] = []
        self._pieces = 0

    def committed(self, key: StepKey) -> Manifest | None:
        """Return the result for ``key`` that holds, if there is one."""
        paths = self._present.get(folder_of(key))
        record = self._records.get(paths[-1]) if paths else None
        return committed(self._store, key) if record is None else from_json(record)

    def manifests(self) -> list[Manifest]:
        """All results in it that are still there, as they were written down."""
        there = {path for paths in self._present.values() for path in paths}
        return [from_json(record) for path, record in self._records.items() if path in there]

    def add(self, manifest: Manifest) -> None:
        """Write a result down, soon."""
        known = self._records.get(manifest.path)
        if known is None or known["root"] != manifest.root:
            self._new.append(manifest)
            if len(self._new) >= _EVERY:
                self.flush()

    def flush(self) -> None:
        """Write down what is new; trouble with it costs time later and stops nobody."""
        if self._new:
            new, self._new = self._new, []
            body = "\n".join(json.dumps([manifest.path, manifest.to_record()]) for manifest in new)
            seal = hashlib.sha256(body.encode()).hexdigest()
            self._pieces += 1
            path = f"{self._prefix}/{self._writer}-{self._pieces:06d}"
            with suppress(StoreError, OSError):
                self._store.create(path, f"{seal}\n{body}".encode(), is_durable=False)

    def _load(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {}
        for path in self._store.list(self._prefix):
            seal, _, body = self._store.read(path).partition(b"\n")
            if hashlib.sha256(body).hexdigest() == seal.decode(errors="replace"):
                records.update(json.loads(line) for line in body.splitlines())
        return records

    def _list(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self._store.list("manifests"):
            found[path.rpartition("/")[0]].append(path)
        return found
