"""The random state of this process, as values that ``torch.load(weights_only=True)`` reads."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, rank: int) -> None:
    """Start the generators of Python, numpy and torch; ranks draw different numbers."""
    value = (seed * 1_000_003 + rank) % 2**32
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def random_state() -> dict[str, Any]:
    """Return the state of every generator that a model or a loader may draw from."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    keys = numpy_state["state"]["key"].astype(np.int64)
    return {
        "python": random.getstate(),
        "numpy": {
            **numpy_state,
            "state": {"key": torch.from_numpy(keys), "pos": int(numpy_state["state"]["pos"])},
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set every generator to what `random_state` returned."""
    random.setstate(state["python"])
    generator = state["numpy"]
    keys = generator["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**generator, "state": {**generator["state"], "key": keys}})
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
