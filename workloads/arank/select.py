"""Which layers to convert, decided from an ARank profile, with a reason for each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from workloads.arank.errors import ARankError
from workloads.arank.order import spearman
from workloads.arank.policies import POLICIES, Choice, Request
from workloads.arank.profile import ARankProfile

STABLE_ORDER = 0.9
"""Spearman correlation of half the samples' layer order with the whole; warned of if lower."""


@dataclass(frozen=True, slots=True)
class LayerSelection(Sequence[int]):
    """The layers to convert, ascending: a sequence of them that knows its reasons."""

    layers: tuple[int, ...]
    reasons: tuple[str, ...]
    """One per decoder layer, converted or not."""
    warnings: tuple[str, ...]
    """What a person should know before trusting the choice."""
    policy: Mapping[str, Any]
    """The policy and the parameters that it used."""

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {
            "layers": list(self.layers),
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "policy": dict(self.policy),
        }


def select_layers(
    profile: ARankProfile,
    policy: str = "fraction",
    *,
    fraction: float | None = 0.9,
    threshold: float | None = None,
    relative_threshold: float | None = None,
    count: int | None = None,
    layers: Sequence[int] | None = None,
    heuristic: str | None = None,
    always_dense: Sequence[int] = (0,),
    seed: int = 0,
) -> LayerSelection:
    """Choose the layers to convert to Mixture-of-Depths.

    Layers of low ARank are redundant (arXiv 2410.13859, section 3.2). Of layers with equal
    ARank the deeper one is converted first, as both releases keep early layers dense.

    Args:
        profile: The measurement; policies that read no ranks use its number of layers only.
        policy: ``fraction`` (the lowest ``fraction`` of all layers), ``threshold`` (ARank
            below ``threshold``, 110 by default, or below ``relative_threshold`` times the mean
            sequence length), ``lowest`` (the ``count`` lowest), ``knee`` (those up to the bend
            of the sorted profile), ``explicit`` (``layers``), ``release`` (a ``heuristic`` of
            the released codes), ``random`` (``count``, or as many as ``fraction`` gives), ``all``.
        fraction: Share of all decoder layers, in (0, 1], rounded down.
        threshold: In ranks; layers strictly below it are converted.
        relative_threshold: The same as a share of the sequence length, in (0, 1].
        count: Number of layers.
        layers: The layers themselves, 0-based.
        heuristic: A name in `heuristics.HEURISTICS`; ``gamma_arank`` by default.
        always_dense: Layers that stay dense whatever the policy says.
        seed: Of the random policy.

    Raises:
        ARankError: If a parameter is missing or out of range, or no layer would be converted.
    """
    if policy not in POLICIES:
        raise ARankError(f"unknown policy {policy!r}; known are {', '.join(POLICIES)}")
    request = Request(
        profile=profile,
        candidates=_candidates(always_dense, profile.layers),
        fraction=fraction,
        threshold=threshold,
        relative_threshold=relative_threshold,
        count=count,
        layers=None if layers is None else tuple(layers),
        heuristic=heuristic,
        seed=seed,
    )
    choice = POLICIES[policy](request)
    if not choice.layers:
        ranks = [round(float(value), 2) for value in profile.mean]
        raise ARankError(
            f"policy {policy!r} converts no layer: {choice.dense}; mean ranks are {ranks}"
        )
    return LayerSelection(
        layers=tuple(sorted(set(choice.layers))),
        reasons=tuple(_reason(layer, request, choice) for layer in range(profile.layers)),
        warnings=tuple(_warnings(request, choice)) if choice.is_measured else (),
        policy={"policy": policy, **choice.parameters, "always_dense": sorted(set(always_dense))},
    )


def _candidates(always_dense: Sequence[int], layers: int) -> tuple[int, ...]:
    for layer in always_dense:
        if not 0 <= layer < layers:
            raise ARankError(f"always_dense must be in [0, {layers - 1}], got {layer}")
    return tuple(layer for layer in range(layers) if layer not in always_dense)


def _reason(layer: int, request: Request, choice: Choice) -> str:
    mean, error = request.profile.mean[layer], request.profile.stderr[layer]
    measured = f"mean rank {mean:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")
    if layer in choice.layers:
        return f"MoD: {choice.converted} ({measured})"
    why = choice.dense if layer in request.candidates else "always dense by request"
    return f"dense: {why} ({measured})"


def _warnings(request: Request, choice: Choice) -> Iterator[str]:
    """What makes a measured choice less certain than it looks."""
    profile = request.profile
    if profile.samples == 1:
        yield "one sample was measured, so nothing is known about the spread; measure more"
        return
    highest = max(choice.layers, key=lambda layer: (profile.mean[layer], -layer))
    dense = [layer for layer in request.ascending if layer not in choice.layers]
    if dense:
        yield from _close_calls(profile, highest, dense[0])
    half = profile.first(profile.samples // 2)
    agreement = spearman(half.mean, profile.mean)
    if agreement is None or agreement < STABLE_ORDER:
        told = (
            "has no order" if agreement is None else f"correlates with the order by {agreement:.2f}"
        )
        yield (
            f"the layer order is not stable: that of the first {half.samples} of "
            f"{profile.samples} samples {told}, below {STABLE_ORDER}; measure more samples"
        )


def _close_calls(profile: ARankProfile, converted: int, dense: int) -> Iterator[str]:
    """Say when the two layers on either side of the cut can hardly be told apart."""
    gap = profile.mean[dense] - profile.mean[converted]
    # Paired by sample: ranks rise with a sample's length in every layer alike.
    per_sample = profile.ranks.mean(axis=2)
    differences = per_sample[:, dense] - per_sample[:, converted]
    error = differences.std(ddof=1) / math.sqrt(profile.samples)
    if gap == 0:
        yield (
            f"layers {converted} and {dense} are tied at mean rank {profile.mean[dense]:.2f}; "
            f"layer {converted} is converted because it is the deeper one"
        )
    elif gap < 2 * error:
        yield (
            f"layers {converted} (converted) and {dense} (dense) differ by {gap:.2f} ranks, "
            f"less than twice the standard error {error:.2f} of that difference; more samples may "
            "swap them"
        )
