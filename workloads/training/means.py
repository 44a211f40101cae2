"""Means of one optimizer step over micro-batches and ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.mod import RoutingRecord
from workloads.training.ranks import Ranks
from workloads.training.router_health import RouterHealth


@dataclass(frozen=True, slots=True)
class Combined:
    """The same bits on every rank."""

    means: dict[str, float]
    """Losses, and the skipped shares of a converted model."""

    grad_norm: float
    """Rank 0's; NaN if any rank's is not finite."""

    router_sums: list[float]
    """See `RouterHealth.sums`; empty if routers are not watched."""


class StepMeans:
    """Losses weighted by their share of the global batch's tokens; skips by micro-batches."""

    def __init__(self) -> None:
        self._losses: list[dict[str, Tensor]] = []
        self._records: list[RoutingRecord] = []

    def add(self, loss: Tensor, share: float, record: RoutingRecord | None) -> None:
        """Add a micro-batch.

        Args:
            loss: Its mean loss.
            share: Its part of the global batch's answer tokens.
            record: What its forward pass recorded; None for a dense model.
        """
        language, router = loss, None
        if record is not None:
            self._records.append(record)
            language = loss if record.lm_loss is None else record.lm_loss
            router = record.router_loss  # None where routers learn from the language model alone
        named = {"loss": loss, "lm_loss": language, "router_loss": router}
        self._losses.append(
            {n: value.detach().double() * share for n, value in named.items() if value is not None}
        )

    def over(self, ranks: Ranks, grad_norm: float) -> Combined:
        """Combine over ranks, in one collective; waits for the device here and not before."""
        names = list(self._losses[0])
        losses = torch.stack([torch.stack(list(each.values())) for each in self._losses])
        skip_all = sum(record.skip_all() for record in self._records)
        skip_routable = sum(record.skip_routable() for record in self._records)
        figures = [*losses.sum(0).tolist(), skip_all, skip_routable, len(self._records)]
        norm = grad_norm if ranks.is_first else grad_norm * 0.0
        sums = ranks.sum([*figures, norm, *self._router_sums()])
        means = dict(zip(names, sums, strict=False))
        skip_all, skip_routable, count, norm, *router_sums = sums[len(names) :]
        if self._records:
            means |= {"skip_all": skip_all / count, "skip_routable": skip_routable / count}
        return Combined(means, norm, router_sums)

    def _router_sums(self) -> list[float]:
        sums = [record.sums() for record in self._records if isinstance(record, RouterHealth)]
        return [sum(column) for column in zip(*sums, strict=True)]
