"""The optimizer of both parts of the pre-training."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from workloads.pretraining.recipe import PretrainingRecipe

_LAST_RATE = 0.02


class Optimizer:
    """AdamW with a linear warm-up, a cosine decay to 2 % and clipped gradients."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        recipe: PretrainingRecipe,
        *,
        learning_rate: float,
        steps: int,
    ) -> None:
        self._parameters = list(parameters)
        self._norm = recipe.gradient_norm
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
        )

        def rate(step: int) -> float:
            decay = 0.5 * (1.0 + math.cos(math.pi * step / steps))
            return min(1.0, (step + 1) / recipe.warmup_steps) * max(decay, _LAST_RATE)

        self._schedule = LambdaLR(self._adamw, rate)

    def step(self, loss: torch.Tensor) -> float:
        """Go one step down the gradient of a scalar loss; returns its value."""
        self._adamw.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, self._norm)
        self._adamw.step()
        self._schedule.step()
        return loss.item()
