"""Which trials are stopped early: successive halving that waits for no other trial.

Ray Tune's own HyperBand lets a trial pause at a comparison until its whole bracket has come as
far, and goes on with the best. A trial here is a durable run, which can be cancelled but not
paused, and a sweep that was killed would have to remember who waited for whom. So HyperBand is
the asynchronous one (arXiv 1810.05934, section 3.1): several brackets of ASHA side by side, in
which a trial that is stopped has ended. Ray Tune's ASHA has brackets too, but draws a trial's
bracket by chance, differently each time that a sweep goes on; here its number decides.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrator.search_space import EarlyStopping
from orchestrator.sweep.brackets import bracket_of, shares
from orchestrator.sweep.journal import TrialRecord


def halving(early: EarlyStopping, steps: int, trials: Sequence[TrialRecord]) -> "Halving":
    """A scheduler that already knows the losses of the trials that ended before.

    Args:
        early: How to compare.
        steps: Optimizer steps of a whole trial.
        trials: Of the sweep, up to now.
    """
    scheduler = Halving(early, steps)
    for trial in trials:
        known = SimpleNamespace(trial_id=f"known-{trial.number}", config={"order": trial})
        scheduler.on_trial_add(None, known)
        for step, loss in trial.reports:
            scheduler.on_trial_result(None, known, {"step": step, "loss": loss})
    return scheduler


class Halving(FIFOScheduler):
    """Brackets of ASHA; a trial's number decides in which it is.

    Args:
        early: How to compare.
        steps: Optimizer steps of a whole trial.
    """

    def __init__(self, early: EarlyStopping, steps: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps, self._shares = steps, shares(early, steps)
        self._brackets = [
            ASHAScheduler(
                time_attr="step",
                metric="loss",
                mode="min",
                max_t=steps + 1,
                grace_period=early.grace * early.reduction**bracket,
                reduction_factor=early.reduction,
            )
            for bracket in range(len(self._shares))
        ]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401 - Ray's
        """Put it into its bracket."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """Compare it with the others of its bracket, unless it has come to its last step."""
        if result.get("step", 0) >= self._steps:
            return TrialScheduler.CONTINUE
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:  # noqa: ANN401
        """Compare others with it from now on."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401 - Ray's
        """Forget it."""
        self._of(trial).on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        """Every bracket."""
        return "\n".join(each.debug_string() for each in self._brackets)

    def _of(self, trial: Any) -> TrialScheduler:  # noqa: ANN401 - Ray's
        return self._brackets[bracket_of(trial.config["order"].number, self._shares)]
