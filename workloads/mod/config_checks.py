"""What the fields of a MoDConfig may be; every message names the field and the allowed values."""

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal, get_args

from workloads.kinds import TokenKind

if TYPE_CHECKING:
    from workloads.mod.config import MoDConfig

RouterInit = Literal["zero", "uniform", "xavier"]
RouterInput = Literal["normed", "raw"]
WeightNorm = Literal["none", "sigmoid", "softmax", "tanh"]
Reweight = Literal["routed", "routed+skipped"]
Rounding = Literal["ceil", "floor"]
Positions = Literal["original", "compact"]
Inference = Literal["topk", "threshold"]

SCORERS = ("binary", "scalar", "random")
SCORER_GROUP = "gammaray.scorers"
"""Entry points by which other packages bring scorers of their own."""

ROUTABLE_KINDS = tuple(kind.name.lower() for kind in TokenKind if kind is not TokenKind.PAD)

_CHOICES: dict[str, tuple[str, ...]] = {
    "router_init": get_args(RouterInit),
    "router_input": get_args(RouterInput),
    "weight_norm": get_args(WeightNorm),
    "reweight": get_args(Reweight),
    "rounding": get_args(Rounding),
    "positions": get_args(Positions),
    "inference": get_args(Inference),
}


def check_config(config: "MoDConfig") -> None:
    """Check one configuration.

    Raises:
        ValueError: With the first field that is out of range.
    """
    _check_choices(config)
    _check_layers(config)
    _check_kinds(config)
    _check_scoring(config)


def listed(values: Iterable[str]) -> str:
    """Quoted names with commas, for messages."""
    return ", ".join(repr(value) for value in values)


def _check_choices(config: "MoDConfig") -> None:
    for name, allowed in _CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {listed(allowed)}, got {value!r}")
    if config.scorer not in SCORERS and not entry_points(group=SCORER_GROUP, name=config.scorer):
        raise ValueError(
            f"scorer must be one of {listed(SCORERS)}, or the name of an entry point in "
            f"{SCORER_GROUP!r}, got {config.scorer!r}"
        )


def _check_layers(config: "MoDConfig") -> None:
    if not config.layers:
        raise ValueError("layers must name at least one decoder layer, got none")
    for layer in config.layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise ValueError(f"layers must be indices of 0 or more, got {layer!r}")
    if list(config.layers) != sorted(set(config.layers)):
        raise ValueError(f"layers must be ascending without repeats, got {list(config.layers)}")
    for name in ("capacities", "thresholds"):
        values = getattr(config, name)
        if values is not None and len(values) != len(config.layers):
            raise ValueError(
                f"{name} must hold one value for each of the {len(config.layers)} layers, "
                f"got {len(values)}"
            )
    for layer, capacity in zip(config.layers, config.capacities, strict=True):
        if not 0.0 < capacity <= 1.0:
            raise ValueError(f"capacities must be in (0, 1], got {capacity} for layer {layer}")


def _check_kinds(config: "MoDConfig") -> None:
    for name in ("routable", "inference_routable"):
        kinds = getattr(config, name)
        if kinds is None:
            continue
        if not kinds or not set(kinds) <= set(ROUTABLE_KINDS):
            raise ValueError(
                f"{name} must be a choice of {listed(ROUTABLE_KINDS)}, got {list(kinds)}"
            )


def _check_scoring(config: "MoDConfig") -> None:
    if (config.weight_norm == "softmax") != (config.scorer == "binary"):
        raise ValueError(
            "weight_norm 'softmax' and scorer 'binary' go together, got "
            f"weight_norm={config.weight_norm!r} with scorer={config.scorer!r}"
        )
    if config.aux_weight < 0.0 or (config.aux_weight > 0.0 and config.scorer != "binary"):
        raise ValueError(
            "aux_weight must be 0 or more, and 0 unless scorer is 'binary', got "
            f"aux_weight={config.aux_weight} with scorer={config.scorer!r}"
        )
    if config.inference == "threshold" and (config.thresholds is None or config.scorer != "binary"):
        raise ValueError(
            "inference 'threshold' needs scorer 'binary' and thresholds, got "
            f"scorer={config.scorer!r} and thresholds={config.thresholds}"
        )
