"""Decisions of the guards: pure functions of figures that are the same bits on all ranks.

So ranks agree without asking each other, and a training that was killed and resumed decides as it
did before: what is remembered lies in its checkpoints, and nothing depends on the time.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_args

from workloads.training.guards import Action, Guards

_MIN_NORMS = 10
"""Gradient norms before the first spike can be told; early norms are all over the place."""

_BLAME_THE_BATCH = ("non_finite", "spike")

_NAMED_SAMPLES = 8
"""How many samples a line for a person names."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is judged of one optimizer step, combined over ranks."""

    step: int
    """1-based."""

    broken_inputs: int
    """Micro-batches with a NaN or infinite input; nothing was computed if there is one."""

    loss: float
    grad_norm: float
    """Of the global batch before clipping; no update was made with it."""

    entropies: Mapping[int, tuple[float, float]]
    """Layer to its mean routing probability, and the entropy of that as a share of the entropy at
    the layer's capacity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A guard that fired."""

    step: int
    """1-based optimizer step."""

    guard: str
    action: Action
    value: float
    """Metric: how many medians a spike is high, how many layers collapsed, else 1."""

    reason: str
    """What is wrong, and what to do about it."""

    samples: tuple[str, ...]
    """Ids of the samples of the global batch, where it may be to blame."""

    def __str__(self) -> str:
        if not self.samples:
            return self.reason
        named = ", ".join(self.samples[:_NAMED_SAMPLES])
        more = len(self.samples) - _NAMED_SAMPLES
        return f"{self.reason} (samples {named}{f' and {more} more' if more > 0 else ''})"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "samples": list(self.samples)}


@dataclass(slots=True)
class Memory:
    """What the guards remember from step to step; part of every checkpoint."""

    events: list[dict[str, Any]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Steps done when a rollback lowered the rates."""

    left_out: list[int] = field(default_factory=list)
    """Steps (0-based) whose batch led to a rollback and is not tried again."""

    collapsed: dict[str, int] = field(default_factory=dict)
    """Layer to the steps in a row that it has been collapsed."""

    good: int = 0
    """Steps done at the last checkpoint's turn without a collapsed layer or degenerate answers."""

    is_degenerate: bool = False
    """Whether the last answers to held-out questions were no text."""

    best: int | None = None
    """Steps done when the validation loss was lowest."""

    best_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json` back."""
        return cls(**values)


class Watch:
    """The guards of one training on its way.

    Args:
        guards: Actions and limits.
        advice: What a person may turn when a loss is not finite.
    """

    def __init__(self, guards: Guards, advice: str) -> None:
        self.memory = Memory()
        self._guards, self._advice = guards, advice

    def rate(self, step: int) -> float:
        """Factor on the learning rates of ``step`` (0-based): below 1 after a rollback."""
        cuts = sum(cut <= step for cut in self.memory.cuts)
        return self._guards.rollback_rate**cuts

    def is_left_out(self, step: int) -> bool:
        """Whether the batch of ``step`` (0-based) led to a rollback."""
        return step in self.memory.left_out

    def judge(
        self,
        figures: Figures,
        history: Sequence[Mapping[str, float]],
        sample_ids: Callable[[int], Sequence[str]],
    ) -> list[Event]:
        """What the guards have to say of a step, the most severe event last.

        Args:
            figures: Of the step.
            history: Points of the steps before.
            sample_ids: Ids of the samples of the global batch of a step (0-based).
        """
        found = (
            self._non_finite(figures),
            self._spike(figures, history),
            self._collapse(figures),
        )
        events = []
        for name, action, value, reason in filter(None, found):
            action, reason = self._limited(action, reason, history)
            event = Event(
                step=figures.step,
                guard=name,
                action=action,
                value=value,
                reason=reason,
                samples=tuple(sample_ids(figures.step - 1)),
            )
            events.append(event)
        self.memory.events += [event.to_json() for event in events]
        return sorted(events, key=lambda event: get_args(Action).index(event.action))

    def checkpoint_is_due(self, done: int) -> None:
        """Note that the state after ``done`` steps is kept, as good unless a layer collapsed."""
        if not self.memory.collapsed and not self.memory.is_degenerate:
            self.memory.good = done

    def note_loss(self, done: int, loss: float) -> None:
        """Remember the state after ``done`` steps if its validation loss is the lowest so far.

        A loss that is NaN or infinite is none.
        """
        lowest = self.memory.best_loss
        if math.isfinite(loss) and (lowest is None or loss < lowest):
            self.memory.best, self.memory.best_loss = done, loss

    def judge_answers(self, done: int, share: float) -> Event | None:
        """Whether too many answers have just become degenerate.

        Args:
            done: Optimizer steps done.
            share: Of the answers to held-out questions, that are no text.
        """
        guards, was_degenerate = self._guards, self.memory.is_degenerate
        self.memory.is_degenerate = share > guards.max_degenerate
        if guards.degenerate == "off" or was_degenerate or not self.memory.is_degenerate:
            return None
        reason = (
            f"{share:.0%} of the answers to held-out questions are empty or repeat themselves: "
            f"{self._advice}"
        )
        action, reason = self._limited(guards.degenerate, reason, ())
        event = Event(
            step=done, guard="degenerate", action=action, value=share, reason=reason, samples=()
        )
        self.memory.events.append(event.to_json())
        return event

    def roll_back(self, before: Memory, event: Event, done: int) -> None:
        """Lower the rates, after the state at ``done`` steps has been restored.

        Args:
            before: What was remembered when the decision fell.
            event: The decision.
            done: ``before.good``, or fewer if that checkpoint was damaged.
        """
        self.memory.events = before.events
        self.memory.cuts = [*before.cuts, done]
        self.memory.left_out = list(before.left_out)
        if self.memory.best != done:
            # The checkpoint of an earlier best state went when a better one came, which is undone.
            self.memory.best = self.memory.best_loss = None
        if event.guard in _BLAME_THE_BATCH:
            self.memory.left_out.append(event.step - 1)

    def _non_finite(self, figures: Figures) -> "_Found | None":
        if figures.broken_inputs:
            return (
                "non_finite",
                self._guards.non_finite,
                1.0,
                ("an input of the batch is NaN or infinite: look for broken samples"),
            )
        for name, value in (("loss", figures.loss), ("grad_norm", figures.grad_norm)):
            if not math.isfinite(value):
                return (
                    "non_finite",
                    self._guards.non_finite,
                    1.0,
                    (f"{name} is {value}: {self._advice}, or look for broken samples"),
                )
        return None

    def _spike(self, figures: Figures, history: Sequence[Mapping[str, float]]) -> "_Found | None":
        guards = self._guards
        if guards.spike == "off" or not math.isfinite(figures.grad_norm):
            return None
        norms = [point["grad_norm"] for point in history if "skipped" not in point]
        norms = norms[-guards.spike_window :]
        if len(norms) < min(_MIN_NORMS, guards.spike_window):
            return None
        ratio = figures.grad_norm / max(statistics.median(norms), 1e-30)
        if ratio <= guards.spike_factor:
            return None
        return (
            "spike",
            guards.spike,
            ratio,
            (
                f"grad_norm {figures.grad_norm:.3g} is {ratio:.3g} times the median of the last "
                f"{len(norms)}: {self._advice}, or look for broken samples"
            ),
        )

    def _collapse(self, figures: Figures) -> "_Found | None":
        guards, counts = self._guards, self.memory.collapsed
        if guards.collapse == "off" or figures.broken_inputs:
            return None
        low = {
            layer: probability
            for layer, (probability, entropy) in figures.entropies.items()
            if entropy < guards.min_entropy
        }
        self.memory.collapsed = {str(layer): counts.get(str(layer), 0) + 1 for layer in low}
        fresh = {
            layer: probability
            for layer, probability in low.items()
            if self.memory.collapsed[str(layer)] == guards.patience
        }
        if not fresh:
            return None
        told = ", ".join(
            f"layer {layer} would {'compute' if probability > 0.5 else 'skip'} all tokens "
            f"(mean probability {probability:.4f})"
            for layer, probability in sorted(fresh.items())
        )
        return (
            "collapse",
            guards.collapse,
            float(len(fresh)),
            (
                f"routers have collapsed for {guards.patience} steps: {told}; lower "
                "router_learning_rate or raise mod.aux_weight"
            ),
        )

    def _limited(
        self, action: str, reason: str, history: Sequence[Mapping[str, float]]
    ) -> tuple[Action, str]:
        """The action, or a stop where it was taken too often."""
        limit = self._guards.limit
        if action == "rollback" and len(self.memory.cuts) >= limit:
            return "stop", f"{reason}; {limit} rollbacks did not help"
        recent = history[-limit:]
        if action == "skip" and len(recent) == limit and all("skipped" in p for p in recent):
            return "stop", f"{reason}; the {limit} batches before were skipped as well"
        known: Action = action  # type: ignore[assignment]
        return known, reason


_Found = tuple[str, str, float, str]
"""Name of a guard, its action, the metric and the reason."""
