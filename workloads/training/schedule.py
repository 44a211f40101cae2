"""Learning-rate schedules as pure functions of the step, so that a resume needs no state."""

import math

from workloads.training.config import TrainingConfig


def rate_factor(config: TrainingConfig, step: int) -> float:
    """Factor on every learning rate in optimizer step ``step`` (0-based), in (0, 1].

    The rates rise linearly over ``warmup_ratio * steps`` steps, the first one being above
    zero, then fall by a half cosine or a line that would reach zero one step after the last.
    """
    warmup = math.ceil(config.warmup_ratio * config.steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if config.schedule == "linear":
        return 1.0 - done
    return 1.0
