"""The section ``sweep`` of a recipe: what is searched, how, and what is wanted."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue, field_validator, model_validator

from orchestrator.section import Positive, Section

Objective = Literal["accuracy", "tflops", "kv", "prefill"]
"""``accuracy`` is to be high; the others, shares of the dense twin, are to be low."""
Metric = Literal["accuracy", "accuracy_drop", "tflops", "kv", "prefill"]
"""What a constraint may bound: also the points of accuracy lost against the dense twin."""

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_POSSIBLE = {
    "accuracy": (0.0, 1.0),
    "accuracy_drop": (-100.0, 100.0),
    "tflops": (0.0, 1.0),
    "kv": (0.0, 1.0),
    "prefill": (0.0, inf),
}
"""Between which values a metric can be; a bound that asks for more can never hold."""


class Parameter(Section):
    """The values that one key of the recipe may take: exactly one of these."""

    choice: tuple[JsonValue, ...] | None = None
    """Any values, whole sections included."""
    uniform: tuple[float, float] | None = None
    """A number between two."""
    loguniform: tuple[float, float] | None = None
    """The same, evenly over orders of magnitude."""
    integers: tuple[int, int] | None = Field(default=None, alias="int")
    """A whole number, both ends included."""

    @model_validator(mode="before")
    @classmethod
    def _is_a_section(cls, value: object) -> object:
        if not isinstance(value, dict | Parameter):
            raise ValueError(  # noqa: TRY004 - pydantic passes on a ValueError only
                f"expected values to try, such as {{choice: [...]}} or {{uniform: [low, high]}}, "
                f"got {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _is_one_range(self) -> "Parameter":
        given = self.model_dump(exclude_none=True, by_alias=True)
        if len(given) != 1:
            kinds = "choice, uniform, loguniform or int"
            raise ValueError(f"expected one of {kinds}, got {', '.join(given) or 'none'}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice is empty; list the values to try")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"the low end must be below the high one, got {low} and {high}")
        if self.loguniform and low <= 0:
            raise ValueError(f"loguniform needs numbers above 0, got {low}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high end of a range."""
        found = self.uniform or self.loguniform or self.integers
        assert found is not None
        return found

    @property
    def values(self) -> tuple[JsonValue, ...] | None:
        """All values, if they can be counted."""
        if self.integers is not None:
            low, high = self.integers
            return tuple(range(low, high + 1))
        return self.choice


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on a metric, such as ``tflops <= 0.6``."""

    metric: str
    is_upper: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Read ``METRIC <= NUMBER`` or ``>=``; a number may end with ``%``.

        Raises:
            ValueError: If it cannot be read.
        """
        match = _CONSTRAINT.fullmatch(text)
        metric = match[1].lower() if match else ""
        if match is None or metric not in get_args(Metric):
            known = ", ".join(get_args(Metric))
            raise ValueError(
                f"expected METRIC <= NUMBER or METRIC >= NUMBER, the metric one of {known}; "
                f"got {text!r}"
            )
        return cls(metric, match[2] == "<=", float(match[3]) / (100 if match[4] else 1))

    def violation(self, figures: Mapping[str, float]) -> float:
        """By how much it is broken; 0 or less where it holds."""
        over = figures[self.metric] - self.limit
        return over if self.is_upper else -over

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.is_upper else '>='} {self.limit:g}"


class Proxy(Section):
    """The smaller budget that a trial gets; the winner is trained again without it."""

    steps: Positive | None = None
    """In place of ``finetune.steps``."""
    questions: Positive | None = None
    """In place of ``evaluate.questions``."""

    @property
    def values(self) -> dict[str, Any]:
        """As values of the recipe's keys."""
        given = {"finetune.steps": self.steps, "evaluate.questions": self.questions}
        return {path: value for path, value in given.items() if value is not None}


class EarlyStopping(Section):
    """Asynchronous successive halving on the fine-tuning loss (arXiv 1810.05934)."""

    method: Literal["asha", "hyperband"]
    """``hyperband`` is several brackets of ASHA, of which some make their first comparison later,
    in case early losses mislead."""
    grace: Positive = 50
    """Optimizer steps before the first comparison; the loss is the mean of so many steps."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One trial in so many goes on past a comparison."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"method": value} if isinstance(value, str) else value


class Sweep(Section):
    """A search over values of the recipe."""

    space: dict[str, Parameter]
    """Dotted key of the recipe to the values it may take."""
    algorithm: Literal["grid", "random", "optuna"] = "optuna"
    """Every combination; independent draws; or Optuna's TPE, which learns from finished trials."""
    trials: Positive = 16
    """How many run at most. More continue the same sweep."""
    seed: Annotated[int, Field(ge=0)] = 0
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("accuracy", "tflops")
    constraints: tuple[str, ...] = ()
    proxy: Proxy = Proxy()
    early_stopping: EarlyStopping | None = None
    max_concurrent: Positive | None = None
    """Trials at the same time, at most; by default as many as the cluster has room for."""
    retrain: bool = False
    """Run the winner with the full budget, which registers it."""

    @field_validator("space", mode="before")
    @classmethod
    def _is_flat(cls, space: object) -> object:
        return dict(_flattened(space, "")) if isinstance(space, dict) else space

    @field_validator("space")
    @classmethod
    def _is_not_empty(cls, space: dict[str, Parameter]) -> dict[str, Parameter]:
        if not space:
            raise ValueError("empty; name keys of the recipe and the values to try")
        return space

    @field_validator("constraints")
    @classmethod
    def _can_hold(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        check_bounds([Constraint.parse(text) for text in constraints])
        return constraints

    @model_validator(mode="after")
    def _fits_together(self) -> "Sweep":
        if self.algorithm == "grid":
            endless = [path for path, each in self.space.items() if each.values is None]
            if endless:
                raise ValueError(f"a grid needs choice or int, {endless[0]} has neither")
        if self.early_stopping and self.objectives != ("accuracy",):
            raise ValueError(
                "early_stopping compares trials by one number: set objectives to [accuracy], "
                "and bound what it may cost by constraints"
            )
        doubled = self.space.keys() & self.proxy.values.keys()
        if doubled:
            raise ValueError(f"{min(doubled)} is searched and set by proxy; take one of them out")
        return self

    @property
    def bounds(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return tuple(Constraint.parse(text) for text in self.constraints)

    @property
    def at_most(self) -> int:
        """How many trials there can be: a grid may have fewer points."""
        counted = [each.values for each in self.space.values() if each.values is not None]
        points = prod(len(values) for values in counted) if self.algorithm == "grid" else inf
        return int(min(self.trials, points))

    def identity(self) -> dict[str, Any]:
        """What makes two sweeps the same: not how many trials, how many at once, or what then."""
        without = {"trials", "max_concurrent", "retrain"}
        return self.model_dump(mode="json", by_alias=True, exclude=without, exclude_none=True)


def _flattened(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """``{mod: {capacity_ratio: {uniform: ...}}}`` means ``{mod.capacity_ratio: ...}``."""
    kinds = {field.alias or name for name, field in Parameter.model_fields.items()}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and not kinds & value.keys()
        if is_section and all(isinstance(inner, dict) for inner in value.values()):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _with_tuples(value)


def _with_tuples(value: object) -> object:
    """JSON's lists as what a strict section takes once it was touched."""
    if not isinstance(value, dict):
        return value
    return {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}


def check_bounds(constraints: list[Constraint]) -> None:
    """Raise ValueError if no figures at all could satisfy the constraints."""
    for metric in dict.fromkeys(each.metric for each in constraints):
        of_it = [each for each in constraints if each.metric == metric]
        least, most = _POSSIBLE.get(metric, (-inf, inf))
        for each in of_it:
            if not (least < each.limit if each.is_upper else each.limit <= most):
                raise ValueError(
                    f"{each} can never hold: {metric} is between {least:g} and {most:g}"
                )
        lower = max((each for each in of_it if not each.is_upper), key=_limit, default=None)
        upper = min((each for each in of_it if each.is_upper), key=_limit, default=None)
        if lower and upper and lower.limit > upper.limit:
            raise ValueError(f"{lower} and {upper} contradict each other")


def _limit(constraint: Constraint) -> float:
    return constraint.limit
