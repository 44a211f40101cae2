import math
from typing import Any

import pytest

from workloads.training import TrainingConfig, TrainingError
from workloads.training.schedule import rate_factor

REQUIRED: dict[str, Any] = {"steps": 10, "learning_rate": 1e-3, "trainable": ("projector",)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("global_batch", 0),
        ("micro_batch", 0),
        ("learning_rate", 0.0),
        ("router_learning_rate", -1.0),
        ("schedule", "step"),
        ("warmup_ratio", 1.0),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("clip_norm", 0.0),
        ("precision", "fp16"),
        ("zero_stage", 4),
        ("checkpoint_every", 0),
        ("trainable", ()),
        ("trainable", ("router", "head")),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must"):
        TrainingConfig(**{**REQUIRED, field: value})


def test_a_config_survives_json() -> None:
    config = TrainingConfig(**REQUIRED, betas=(0.8, 0.9))
    as_json = {**config.to_json(), "trainable": ["projector"], "betas": [0.8, 0.9]}
    assert TrainingConfig.from_json(as_json) == config


@pytest.mark.parametrize(("batch", "micro", "workers"), [(8, None, 3), (2, None, 4), (8, 3, 2)])
def test_a_batch_that_does_not_divide_is_refused(
    batch: int, micro: int | None, workers: int
) -> None:
    config = TrainingConfig(**REQUIRED, global_batch=batch, micro_batch=micro)
    with pytest.raises(
        TrainingError, match=rf"{workers} workers.*global_batch {batch}|global_batch"
    ):
        config.rows_of_a_rank(workers)


def test_a_batch_is_shared_equally() -> None:
    assert TrainingConfig(**REQUIRED, global_batch=8, micro_batch=2).rows_of_a_rank(2) == 4


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.5]),
        ("cosine", [0.5, 1.0, 1.0, 0.5]),
    ],
)
def test_rates_rise_and_then_follow_the_schedule(schedule: Any, expected: list[float]) -> None:
    config = TrainingConfig(**{**REQUIRED, "steps": 4}, schedule=schedule, warmup_ratio=0.5)
    factors = [rate_factor(config, step) for step in range(4)]
    assert all(math.isclose(a, b) for a, b in zip(factors, expected, strict=True)), factors
