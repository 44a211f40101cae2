"""What a sweep would do, as data, in sentences and as a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.sweep.journal import TrialRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutlook:
    """One stage over all trials."""

    name: str
    results: int
    """Different results that the trials need of it; 1 is shared by all."""
    reused: int
    """Of these, how many the store has."""
    trials: int

    @property
    def made(self) -> str:
        """How often, in words."""
        if self.results == 1:
            return "once for all"
        if self.results == self.trials:
            return "once per trial"
        return f"{self.results} times for {self.trials} trials"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What a sweep would do."""

    sweep_id: str
    at_most: int
    """Trials; a grid or a space that is used up may have fewer."""
    ended: int
    """Trials that are not run again."""
    begun: int
    """Trials that go on from where they were."""
    trials: tuple[TrialRecord, ...]
    """Those that are known, and those that would come next if nothing were learned meanwhile."""
    looked_at: int
    """Different values that were judged to find these."""
    refused: Mapping[str, int]
    """How many of them are not to be tried, by the reason."""
    closed_form: bool
    """Whether prompts are known, so that bounds on compute and cache could be applied."""
    stages: tuple[StageOutlook, ...]
    cpus: float
    """Of the widest step of a trial."""
    gpus: float
    at_once: int
    """Trials on a cluster with the given resources."""
    comparisons: Mapping[int, int]
    """Optimizer step of a bracket's first comparison to the number of its trials."""
    steps: int
    """Optimizer steps of a whole trial."""

    def show(self, console: Console) -> None:
        """Print which stages are shared, then how many trials there are and why not more."""
        table = Table("stage", "made", "in the store", title=f"{self.sweep_id}, the sweep")
        for stage in self.stages:
            table.add_row(stage.name, stage.made, f"{stage.reused} of {stage.results}")
        console.print(table)
        for line in self.sentences():
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def sentences(self) -> Iterator[str]:
        """What the table does not say."""
        yield (
            f"trials: {len(self.trials)} of at most {self.at_most}, "
            f"{self.ended} ended, {self.begun} begun"
        )
        if self.closed_form:
            yield f"closed form: {self.looked_at} values looked at, {self._compute()}"
        else:
            yield (
                "closed form: not known before `gammaray sweep` has made `prompts`; "
                "bounds on tflops and kv refuse no values here"
            )
        for reason, count in self.refused.items():
            yield f"  {count} refused: {reason}"
        if self.gpus:
            needs = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
            yield f"at once: as many trials as the cluster has {needs} for"
        else:
            yield f"at once: one trial per {self.cpus:g} CPUs; {self.at_once} on this machine"
        for step, trials in self.comparisons.items():
            when = f"from step {step} of {self.steps} on" if step < self.steps else "never"
            yield f"early stopping: {trials} trials {when}"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        fields = asdict(self)
        known = ("number", "run_id", "values", "predicted", "state")
        trials = [{name: trial[name] for name in known} for trial in fields["trials"]]
        return {**fields, "trials": trials}

    def _compute(self) -> str:
        shares = [each.predicted["tflops"] for each in self.trials if "tflops" in each.predicted]
        if not shares:
            return "none of the trials can be told before it is measured"
        return f"trials compute x {min(shares):.2f} to x {max(shares):.2f} of the dense twin"
