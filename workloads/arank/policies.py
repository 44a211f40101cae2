"""Layer policies: each turns an ARank profile into a choice and says why."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workloads.arank.errors import ARankError
from workloads.arank.heuristics import HEURISTICS
from workloads.arank.order import knee
from workloads.arank.profile import ARankProfile

PAPER_THRESHOLD = 110.0
"""gamma-MoD converts layers below this ARank, for LLaVA-HR-7B at 1,024 image tokens (figure 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the caller asked for; every policy reads the fields that it needs."""

    profile: ARankProfile
    candidates: tuple[int, ...]
    """Layers that are not set to stay dense, ascending."""
    fraction: float | None = None
    threshold: float | None = None
    relative_threshold: float | None = None
    count: int | None = None
    layers: tuple[int, ...] | None = None
    heuristic: str | None = None
    seed: int = 0

    @property
    def ascending(self) -> list[int]:
        """Candidates by rising ARank; of equal ones the deeper layer comes first."""
        mean = self.profile.mean
        return sorted(self.candidates, key=lambda layer: (mean[layer], -layer))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a policy decided."""

    layers: tuple[int, ...]
    converted: str
    """Why a chosen layer is converted."""
    dense: str
    """Why a candidate that was not chosen stays dense."""
    parameters: Mapping[str, Any]
    """The parameters that were used, defaults filled in."""
    is_measured: bool = False
    """Whether ranks decided, so that their uncertainty matters."""


def by_fraction(request: Request) -> Choice:
    """Convert the lowest share of all layers, rounded down (gamma-MoD's "90 % of layers")."""
    wanted = _share(request)
    return _lowest(request, wanted, {"fraction": request.fraction})


def by_count(request: Request) -> Choice:
    """Convert a number of layers, those with the lowest ARank."""
    return _lowest(request, _count(request), {"count": request.count})


def by_threshold(request: Request) -> Choice:
    """Convert every layer whose ARank is below a threshold (gamma-MoD, figure 2)."""
    limit, parameters = _limit(request)
    mean = request.profile.mean
    return Choice(
        layers=tuple(layer for layer in request.candidates if mean[layer] < limit),
        converted=f"below the threshold {limit:.4g}",
        dense=f"not below the threshold {limit:.4g}",
        parameters=parameters,
        is_measured=True,
    )


def by_knee(request: Request) -> Choice:
    """Convert the layers before the bend of the sorted profile."""
    order = request.ascending
    wanted = knee(request.profile.mean[order])
    bend = request.profile.mean[order[wanted - 1]]
    return Choice(
        layers=tuple(order[:wanted]),
        converted=f"not above the bend of the sorted profile at {bend:.4g}",
        dense=f"above the bend of the sorted profile at {bend:.4g}",
        parameters={},
        is_measured=True,
    )


def explicit(request: Request) -> Choice:
    """Convert the layers that the caller lists."""
    if request.layers is None:
        raise ARankError("policy 'explicit' needs a list of layers")
    clash = sorted(set(request.layers) - set(request.candidates))
    if clash:
        raise ARankError(
            f"layer {clash[0]} is listed for conversion and is either in always_dense or not in "
            f"[0, {request.profile.layers - 1}]; take it out of one of the two lists"
        )
    return Choice(
        layers=request.layers,
        converted="listed explicitly",
        dense="not in the explicit list",
        parameters={"layers": list(request.layers)},
    )


def release(request: Request) -> Choice:
    """Convert the layers that a released code hard-codes."""
    name = request.heuristic or "gamma_arank"
    if name not in HEURISTICS:
        raise ARankError(f"unknown heuristic {name!r}; known are {', '.join(HEURISTICS)}")
    listed = set(HEURISTICS[name](request.profile.layers))
    return Choice(
        layers=tuple(layer for layer in request.candidates if layer in listed),
        converted=f"in the released list {name}",
        dense=f"not in the released list {name}",
        parameters={"heuristic": name},
    )


def at_random(request: Request) -> Choice:
    """Convert a number of layers drawn at random: the control that ARank must beat."""
    wanted = _count(request) if request.count is not None else _share(request)
    source = random.Random(request.seed)
    return Choice(
        layers=tuple(source.sample(request.candidates, wanted)),
        converted=f"drawn at random with seed {request.seed}",
        dense=f"not drawn at random with seed {request.seed}",
        parameters={"count": wanted, "seed": request.seed},
    )


def everything(request: Request) -> Choice:
    """Convert every layer that may be."""
    return Choice(
        layers=request.candidates,
        converted="all layers are converted",
        dense="no layer may be converted",
        parameters={},
    )


POLICIES: Mapping[str, Callable[[Request], Choice]] = {
    "fraction": by_fraction,
    "threshold": by_threshold,
    "lowest": by_count,
    "knee": by_knee,
    "explicit": explicit,
    "release": release,
    "random": at_random,
    "all": everything,
}


def _lowest(request: Request, wanted: int, parameters: Mapping[str, Any]) -> Choice:
    return Choice(
        layers=tuple(request.ascending[:wanted]),
        converted=f"among the {wanted} lowest",
        dense=f"not among the {wanted} lowest",
        parameters=parameters,
        is_measured=True,
    )


def _share(request: Request) -> int:
    if request.fraction is None or not 0.0 < request.fraction <= 1.0:
        raise ARankError(f"fraction must be in (0, 1], got {request.fraction}")
    # 0.29 * 100 is 28.999999999999996 in binary; nobody means 28 by it.
    wanted = math.floor(request.fraction * request.profile.layers + 1e-9)
    return min(wanted, len(request.candidates))


def _count(request: Request) -> int:
    most = len(request.candidates)
    if request.count is None or not 1 <= request.count <= most:
        raise ARankError(
            f"count must be in [1, {most}], the layers that may be converted; got {request.count}"
        )
    return request.count


def _limit(request: Request) -> tuple[float, dict[str, Any]]:
    """The threshold in ranks, and the parameters it came from."""
    if request.relative_threshold is None:
        limit = PAPER_THRESHOLD if request.threshold is None else request.threshold
        return limit, {"threshold": limit}
    if request.threshold is not None:
        raise ARankError("give threshold or relative_threshold, not both")
    if not 0.0 < request.relative_threshold <= 1.0:
        raise ARankError(f"relative_threshold must be in (0, 1], got {request.relative_threshold}")
    tokens = request.profile.mean_length
    if not tokens:
        raise ARankError("relative_threshold needs a profile that knows its sequence lengths")
    parameters = {"relative_threshold": request.relative_threshold, "mean_length": tokens}
    return request.relative_threshold * tokens, parameters
