"""Recipes with a sweep, and trials as they could have ended."""

import json
from typing import Any

from orchestrator.recipe import Recipe
from orchestrator.recipe_file import load_recipe
from orchestrator.search_space import Sweep
from orchestrator.sweep.journal import TrialRecord

RATIO = "mod.capacity_ratio"
UNIFORM: dict[str, Any] = {RATIO: {"uniform": [0.2, 0.9]}}


def recipe_with(space: dict[str, Any], *overrides: str, **section: Any) -> Recipe:
    text = json.dumps({"space": space, **section})
    return load_recipe("digits", [*overrides, f"sweep={text}"])


def sweep_with(space: dict[str, Any], **section: Any) -> Sweep:
    found = recipe_with(space, **section).sweep
    assert found is not None
    return found


def figures(accuracy: float, tflops: float, prefill: float = 0.9) -> dict[str, float]:
    return {
        "accuracy": accuracy,
        "dense_accuracy": 0.93,
        "accuracy_drop": 100 * (0.93 - accuracy),
        "tflops": tflops,
        "kv": tflops,
        "prefill": prefill,
        "skip_all": 1 - tflops,
    }


def trial(number: int, values: dict[str, Any], **fields: Any) -> TrialRecord:
    return TrialRecord(number=number, run_id=f"digits-{number}", values=values, **fields)


def finished(number: int, ratio: float, accuracy: float, tflops: float) -> TrialRecord:
    return trial(number, {RATIO: ratio}, state="finished", figures=figures(accuracy, tflops))
