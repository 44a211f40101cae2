"""What came out of a run, as plain data: the one source of the table and of the report.

Imports neither torch nor MLflow, so that a run in which everything was reused shows it at once.
"""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.report.documents import Document

Unit = Literal["share", "tflops", "bytes", "seconds"]

_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One quantity of both twins; None where a twin has no such thing."""

    key: str
    """Name of the quantity as a metric."""
    label: str
    unit: Unit
    dense: float | None = None
    mod: float | None = None

    @property
    def change(self) -> float | None:
        """Difference of shares, else MoD over dense; None unless both have a value."""
        if self.dense is None or self.mod is None:
            return None
        if self.unit == "share":
            return self.mod - self.dense
        return self.mod / self.dense if self.dense else None


@dataclass(frozen=True, kw_only=True, slots=True)
class KindAccuracy:
    """Accuracy of both twins over the questions of one kind."""

    kind: str
    questions: int
    dense: float
    mod: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A finished run in figures."""

    rows: tuple[Row, ...]
    kinds: tuple[KindAccuracy, ...]
    layers: int
    """Decoder layers."""
    mod_layers: tuple[int, ...]
    skip_per_layer: Mapping[int, Mapping[str, float]]
    """MoD layer to the measured skipped share by token kind, ``all`` and ``routable``."""
    registration: Mapping[str, str] | None
    """Name, version and URI of the registered model, and where the registry is."""
    decision: Mapping[str, Any] | None = None
    """What the promotion rule said of it; None without a rule."""

    @property
    def promotion(self) -> str:
        """The decision in one line; empty without a rule."""
        return f"{self.decision['verdict']}: {self.decision['reason']}" if self.decision else ""

    def row(self, key: str) -> Row:
        """The row called ``key``; an empty one if the run did not measure it."""
        empty = Row(key=key, label=key, unit="share")
        return next((row for row in self.rows if row.key == key), empty)

    @property
    def figures(self) -> dict[str, float]:
        """Every value by a name such as ``accuracy/mod``, for a tracker."""
        named = {
            f"{row.key}/{column}": value
            for row in self.rows
            for column, value in (("dense", row.dense), ("mod", row.mod), ("change", row.change))
            if value is not None
        }
        skips = {
            f"skip_layer_{layer}/{kind}": share
            for layer, shares in self.skip_per_layer.items()
            for kind, share in shares.items()
        }
        return named | skips

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, with each row's change."""
        rows = [{**asdict(row), "change": row.change} for row in self.rows]
        layers = {str(layer): dict(shares) for layer, shares in self.skip_per_layer.items()}
        return {
            "rows": rows,
            "kinds": [asdict(kind) for kind in self.kinds],
            "layers": self.layers,
            "mod_layers": list(self.mod_layers),
            "skip_per_layer": layers,
            "registration": self.registration,
            "decision": self.decision,
        }


def summarize(documents: Mapping[str, Document]) -> Summary:
    """Gather a run's figures.

    Args:
        documents: By the names of ``documents.SOURCES``; ``dense`` and ``mod`` are needed, what
            is absent of the others leaves its rows out.
    """
    dense, mod = documents["dense"], documents["mod"]
    efficiency = documents.get("efficiency", {})
    per_layer = mod.get("skip", {}).get("per_layer", {})
    kept = efficiency.get("dense", {}).get("kept", ())
    return Summary(
        rows=(
            Row(
                key="accuracy",
                label="Accuracy",
                unit="share",
                dense=dense["accuracy"],
                mod=mod["accuracy"],
            ),
            *_skip_rows(mod.get("skip", {})),
            *_cost_rows(efficiency),
            *_time_rows(documents.get("timing", {})),
        ),
        kinds=tuple(_kinds(dense["by_kind"], mod["by_kind"])),
        layers=len(kept),
        mod_layers=tuple(sorted(int(layer) for layer in per_layer)),
        skip_per_layer={int(layer): shares for layer, shares in per_layer.items()},
        registration=documents.get("registration"),
        decision=documents.get("decision"),
    )


def shown(value: float | None, unit: Unit) -> str:
    """A value with its unit, such as ``34.1 %`` or ``81.3 MFLOPs``; empty for None."""
    if value is None:
        return ""
    if unit == "share":
        return f"{value * 100:.1f}{_SPACE}%"
    suffix = {"tflops": "FLOPs", "bytes": "B", "seconds": "s"}[unit]
    value *= 1e12 if unit == "tflops" else 1.0
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "µ")):
        if abs(value) >= 10.0**power:
            digits = f"{value / 10.0**power:#.3g}".rstrip(".")
            return f"{digits}{_SPACE}{prefix}{suffix}"
    return f"0{_SPACE}{suffix}"


def shown_change(row: Row) -> str:
    """A row's change: ``+0.6 points`` for shares, ``× 0.72`` for the rest; empty for none."""
    if row.change is None:
        return ""
    if row.unit == "share":
        return f"{signed(row.change * 100)} points"
    return f"×{_SPACE}{row.change:.2f}"


def signed(value: float) -> str:
    """A number with its sign, as typography writes it."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _skip_rows(skip: Document) -> Iterator[Row]:
    names = {"skip_routable": "routable tokens", "skip_all": "all tokens"}
    for key, tokens in names.items():
        for how in ("nominal", "measured"):
            if key in skip.get(how, {}):
                yield Row(
                    key=f"{key}_{how}",
                    label=f"Skipped of {tokens}, {how}",
                    unit="share",
                    mod=skip[how][key],
                )


def _cost_rows(efficiency: Document) -> Iterator[Row]:
    fields: tuple[tuple[str, str, Unit], ...] = (
        ("tflops_closed", "Prefill compute, closed form", "tflops"),
        ("tflops_counted", "Prefill compute, counted", "tflops"),
        ("tflops_counted_model", "Prefill compute, counted, whole model", "tflops"),
        ("kv_bytes_closed", "KV cache, closed form", "bytes"),
        ("kv_bytes_counted", "KV cache, counted", "bytes"),
    )
    for key, label, unit in fields:
        if key in efficiency.get("dense", {}) and key in efficiency.get("mod", {}):
            dense, mod = efficiency["dense"][key], efficiency["mod"][key]
            yield Row(key=key, label=label, unit=unit, dense=dense, mod=mod)


def _time_rows(timing: Document) -> Iterator[Row]:
    labels = {"prefill": "Prefill time", "training_step": "Training step time"}
    for name, label in labels.items():
        if name in timing:
            dense_s = statistics.median(timing[name]["seconds"]["dense"])
            # The ratio is the median of pairs measured side by side; absolute times drift.
            mod_s = dense_s * timing[name]["median_ratio"]
            yield Row(key=f"{name}_s", label=label, unit="seconds", dense=dense_s, mod=mod_s)


def _kinds(dense: Document, mod: Document) -> Iterator[KindAccuracy]:
    for kind in sorted(dense.keys() & mod.keys()):
        yield KindAccuracy(
            kind=kind,
            questions=dense[kind]["questions"],
            dense=dense[kind]["accuracy"],
            mod=mod[kind]["accuracy"],
        )
