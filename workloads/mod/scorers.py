"""Scorers by name: the built-in ones, and those that other packages bring."""

from importlib.metadata import entry_points

import torch
from torch import Tensor, nn

from workloads.errors import ConversionError
from workloads.mod.config import MoDConfig
from workloads.mod.config_checks import SCORER_GROUP
from workloads.mod.router import TokenRouter


class RandomScorer(nn.Module):
    """Uniformly random scores: the baseline that a learned scorer has to beat.

    Args:
        hidden_size: Width of the hidden states, unused.
        config: The MoD configuration, unused.
    """

    def __init__(self, hidden_size: int, config: MoDConfig) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        """Scores in [0, 1) from torch's generator, float32 ``(batch, seq)``."""
        return torch.rand(features.shape[:-1], device=features.device)


def scorer_class(config: MoDConfig) -> type[nn.Module]:
    """The class of scorer that a configuration names.

    A scorer of another package is an entry point in the group ``gammaray.scorers``: a module
    class called with the width of the hidden states and the configuration, whose ``forward`` takes
    features ``(batch, seq, hidden)`` and returns one logit per token, float32 ``(batch, seq)``.

    Raises:
        ConversionError: If the entry point is gone, or is no module class.
    """
    if config.scorer in ("binary", "scalar"):
        return TokenRouter
    if config.scorer == "random":
        return RandomScorer
    found = entry_points(group=SCORER_GROUP, name=config.scorer)
    scorer = next(iter(found)).load() if found else None
    if not isinstance(scorer, type) or not issubclass(scorer, nn.Module):
        raise ConversionError(
            f"scorer {config.scorer!r} must be a torch module class in the entry point group "
            f"{SCORER_GROUP!r}, found {scorer!r}: install the package that brings it"
        )
    return scorer
