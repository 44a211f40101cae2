"""MoDConfig: which layers route, how many tokens they compute, and how they score them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from workloads.kinds import TokenKind
from workloads.mod.config_checks import (
    Inference,
    Positions,
    Reweight,
    Rounding,
    RouterInit,
    RouterInput,
    WeightNorm,
    check_config,
    listed,
)
from workloads.mod.schedule import Shape, decay_schedule

SCHEMA_VERSION = 1

Masked = Literal["none", "question", "question+answer", "image-only"]

_MASKED_ROUTABLE: dict[str, tuple[str, ...]] = {
    "none": ("system", "image", "question", "answer"),
    "question": ("system", "image", "answer"),
    "question+answer": ("system", "image"),
    "image-only": ("image",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MoDConfig:
    """Where Mixture-of-Depths layers go and what they do; both papers are values of its fields.

    ``MoDConfig.gamma`` and ``MoDConfig.p_mod`` fill it in the way of gamma-MoD (arXiv
    2410.13859) and p-MoD (arXiv 2412.04449). Symbols: gamma's routing ratio is
    ``1 - capacity``; p-MoD's ``R_l`` is the capacity of layer ``l``, its alpha ``weight_scale``.

    Raises:
        ValueError: If a field is out of range; the message names it and what it may be.
    """

    layers: tuple[int, ...]
    """0-based indices of the decoder layers to convert, ascending."""

    capacities: tuple[float, ...]
    """Per converted layer: share of the routable tokens it computes, in (0, 1]."""

    scorer: str
    """``binary``: Linear(h, 2), whose softmax says "compute"; ``scalar``: Linear(h, 1);
    ``random``: a baseline; or the name of an entry point in ``gammaray.scorers``."""

    shared_router: bool
    """One router for all converted layers, registered on the decoder; else one per layer."""

    router_bias: bool
    """Whether the router's Linear has a bias."""

    router_init: RouterInit
    """``zero``, ``uniform`` (torch's default for Linear) or ``xavier``."""

    router_input: RouterInput
    """``normed``: after the layer's own input norm; ``raw``: the hidden states as they are."""

    weight_norm: WeightNorm
    """From router logit to the weight of the branch; ``softmax`` needs the binary scorer."""

    weight_scale: float = 1.0
    """Factor after ``weight_norm``."""

    weight_bias: float = 0.0
    """Added after ``weight_scale``."""

    reweight: Reweight = "routed"
    """``routed``: the weight multiplies the MLP branch of routed tokens; ``routed+skipped`` also
    the whole state of skipped ones (symmetric token reweighting, STRing)."""

    weigh_protected: bool = False
    """Whether protected tokens are weighted too; False leaves their branch as it is."""

    routable: tuple[str, ...] = ("image",)
    """Token kinds that may be skipped; every other kind is protected (masked routing)."""

    inference_routable: tuple[str, ...] | None = None
    """Routable kinds outside training, where they differ (the released gamma-MoD protects nothing
    there); None: the same."""

    rounding: Rounding = "floor"
    """How ``capacity * routable tokens`` of a row becomes a count; at least one is always kept."""

    aux_weight: float = 0.0
    """Factor of the summed router losses in the training loss; needs the binary scorer."""

    positions: Positions = "original"
    """Rotary positions of routed tokens: those of the sequence, or 0, 1, ... within the layer."""

    inference: Inference = "topk"
    """Outside training: the best ``capacity`` share, or each token that passes a threshold."""

    thresholds: tuple[float, ...] | None = None
    """Per converted layer: a prompt token is routed if its score is above; set by calibration."""

    decode_threshold: float | None = None
    """The same for generated tokens where their kind is routable; None: ``thresholds``."""

    arank_digest: str | None = None
    """Digest of the ARank profile that chose the layers."""

    def __post_init__(self) -> None:
        for name in ("layers", "capacities", "routable", "inference_routable", "thresholds"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        check_config(self)

    @classmethod
    def gamma(
        cls,
        *,
        layers: Sequence[int],
        capacity_ratio: float | Sequence[float] = 0.66,
        masked: Masked = "question",
        shared_router: bool = True,
        aux_weight: float = 0.01,
        threshold: float = 0.5,
        decode_threshold: float | None = None,
        positions: Positions = "original",
        arank_digest: str | None = None,
    ) -> "MoDConfig":
        """gamma-MoD: shared two-class router, masked routing, router loss, threshold at inference.

        Args:
            layers: Layers with low ARank, 0-based.
            capacity_ratio: Share of routable tokens computed, one for all layers or one each.
            masked: Which kinds are protected: ``none``, ``question``, ``question+answer``, or
                everything but images (``image-only``).
            shared_router: False for the paper's ablation with a router per layer.
            aux_weight: Factor of the router losses (paper: 0.01).
            threshold: Score above which a prompt token is computed until
                :func:`~workloads.mod.calibrate_threshold` has set better ones.
            decode_threshold: The same for generated tokens; None: as for the prompt.
            positions: ``compact`` for weights released by the authors.
            arank_digest: Digest of the profile the layers come from.

        Returns:
            The configuration.

        Raises:
            ValueError: If an argument is out of range.
        """
        layers = tuple(layers)
        return cls(
            layers=layers,
            capacities=_per_layer(capacity_ratio, len(layers)),
            scorer="binary",
            shared_router=shared_router,
            router_bias=False,
            router_init="uniform",
            router_input="normed",
            weight_norm="softmax",
            reweight="routed",
            weigh_protected=True,
            routable=_routable(masked),
            rounding="ceil",
            aux_weight=aux_weight,
            positions=positions,
            inference="threshold",
            thresholds=(threshold,) * len(layers),
            decode_threshold=decode_threshold,
            arank_digest=arank_digest,
        )

    @classmethod
    def p_mod(
        cls,
        num_layers: int,
        *,
        schedule: Shape = "cosine",
        mean_retention: float = 0.5,
        max_ratio: float = 0.85,
        min_ratio: float = 0.15,
        alpha: float = 0.2,
        routable: Iterable[str] = ("image",),
        arank_digest: str | None = None,
    ) -> "MoDConfig":
        """p-MoD: routers per layer that start at zero, TanhNorm, STRing, progressive ratio decay.

        Args:
            num_layers: Depth of the decoder.
            schedule: ``cosine`` or ``linear`` decay.
            mean_retention: The paper's beta.
            max_ratio: Layers whose share is above stay dense.
            min_ratio: Smallest share of a layer.
            alpha: The weight is ``1 + alpha * tanh(logit)``, exactly 1 at the start.
            routable: Kinds that may be skipped.
            arank_digest: Digest of an ARank profile, where one had a say.

        Returns:
            The configuration.

        Raises:
            ValueError: If an argument is out of range.
        """
        shares = decay_schedule(
            num_layers,
            shape=schedule,
            mean=mean_retention,
            max_ratio=max_ratio,
            min_ratio=min_ratio,
        )
        return cls(
            layers=tuple(shares),
            capacities=tuple(shares.values()),
            scorer="scalar",
            shared_router=False,
            router_bias=True,
            router_init="zero",
            router_input="raw",
            weight_norm="tanh",
            weight_scale=alpha,
            weight_bias=1.0,
            reweight="routed+skipped",
            routable=tuple(routable),
            arank_digest=arank_digest,
        )

    @classmethod
    def random(
        cls,
        *,
        layers: Sequence[int],
        capacity_ratio: float | Sequence[float] = 0.66,
        masked: Masked = "image-only",
        arank_digest: str | None = None,
    ) -> "MoDConfig":
        """The baseline of a learned router: tokens are skipped at random, none is reweighted.

        Args:
            layers: Layers to convert, 0-based.
            capacity_ratio: Share of routable tokens computed, one for all layers or one each.
            masked: Which kinds are protected, as for :meth:`gamma`.
            arank_digest: Digest of the profile the layers come from.

        Returns:
            The configuration.

        Raises:
            ValueError: If an argument is out of range.
        """
        gamma = cls.gamma(
            layers=layers,
            capacity_ratio=capacity_ratio,
            masked=masked,
            aux_weight=0.0,
            arank_digest=arank_digest,
        )
        return replace(
            gamma,
            scorer="random",
            weight_norm="none",
            weight_scale=0.0,
            weight_bias=1.0,
            weigh_protected=False,
            inference="topk",
            thresholds=None,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``config.json``, with the version of their layout."""
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        return {"schema_version": SCHEMA_VERSION, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MoDConfig":
        """Rebuild what :meth:`to_json` wrote.

        Raises:
            ValueError: If it was written by another version, or a field is missing, unknown or
                out of range.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"MoD configuration has schema_version {version!r}, this version reads "
                f"{SCHEMA_VERSION}: install the gammaray that wrote it, or convert again"
            )
        given = {name: value for name, value in values.items() if name != "schema_version"}
        known = {field.name for field in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise ValueError(f"unknown MoD fields {unknown}, known are {sorted(known)}")
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"MoD configuration is incomplete: {error}") from error

    def routable_kinds(self, *, is_training: bool) -> tuple[TokenKind, ...]:
        """The kinds that may be skipped, in training or outside it."""
        names = self.routable
        if not is_training and self.inference_routable is not None:
            names = self.inference_routable
        return tuple(TokenKind[name.upper()] for name in names)


def _per_layer(value: float | Sequence[float], num_layers: int) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * num_layers


def _routable(masked: str) -> tuple[str, ...]:
    if masked not in _MASKED_ROUTABLE:
        raise ValueError(f"masked must be one of {listed(_MASKED_ROUTABLE)}, got {masked!r}")
    return _MASKED_ROUTABLE[masked]
