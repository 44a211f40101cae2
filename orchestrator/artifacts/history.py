"""How a step differs from what was done before: said without comparing everything with everything.

A fan-out asks this for thousands of keys of one name, which may have thousands of results. So only
results that share with a key what few others have are compared with it in full.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain, islice
from typing import TypeAlias

from orchestrator.artifacts.key import StepKey, canonical, explain
from orchestrator.artifacts.manifest import committed_for
from orchestrator.store import Store

_COMPARED = 100
"""Results that are compared in full; among fewer, the nearest is always found."""

_NAMES = 8
"""Step names whose results are remembered: the steps of a fan-out come together."""

Part: TypeAlias = tuple[str, bytes]


class History:
    """The results of a store, as they were when a step name was first asked for."""

    def __init__(self, store: Store) -> None:
        self._index = lru_cache(maxsize=_NAMES)(partial(_index, store))

    def difference(self, key: StepKey) -> tuple[str, ...]:
        """How ``key`` differs from the nearest one that has a result, as far as inputs are known.

        Empty if there is no result for its name.
        """
        index = self._index(key.name)
        shared = sorted((index[part] for part in _parts(key) if part in index), key=len)
        differences = []
        for old in islice(chain.from_iterable(shared), _COMPARED):
            known = {name: digest for name, digest in old.inputs.items() if name in key.inputs}
            differences.append(tuple(explain(replace(old, inputs=known), key)))
        return min(differences, key=len, default=())


def _index(store: Store, name: str) -> Mapping[Part, list[StepKey]]:
    """The keys that have results, by each of their parts."""
    index: dict[Part, list[StepKey]] = defaultdict(list)
    for manifest in committed_for(store, name):
        for part in _parts(manifest.key):
            index[part].append(manifest.key)
    return index


def _parts(key: StepKey) -> Iterator[Part]:
    """What of a key is looked for in others; the first part is in all of one name."""
    yield "", b""
    yield from ((f"param {name}", canonical(value)) for name, value in key.params.items())
    yield from ((f"input {name}", digest.encode()) for name, digest in key.inputs.items())
