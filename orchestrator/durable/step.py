"""What a step is, as it is declared."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.artifacts.key import JSON, canonical
from orchestrator.durable.errors import StepError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a step or a run may be called: it becomes part of paths in the store."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a step takes while it runs; never part of its key."""

    cpus: float = 1
    """CPUs of the step's own Ray task; 0 when all work is done by workers it starts."""

    gpus: float = 0
    worker_cpus: float = 0
    """CPUs of the Ray workers that the step starts itself, all together."""

    worker_gpus: float = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def all_cpus(self) -> float:
        """CPUs that are taken while the step runs."""
        return self.cpus + self.worker_cpus

    @property
    def all_gpus(self) -> float:
        """GPUs that are taken while the step runs."""
        return self.gpus + self.worker_gpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a step is tried again, by class of failure; each class has its own budget."""

    system: int = 3
    """After a lost worker, node or object, or a full disk."""

    preemption: int = 16
    """After a machine that was taken away: losing spot nodes is not a fault."""

    transient: int = 3
    """After a refused connection or a timeout."""

    backoff_s: float = 1.0
    """Wait before the first retry; doubles each time, up to a minute."""

    errors: tuple[str, ...] = ()
    """Names of further exception types, such as ``"ModelServerBusy"``, that count as transient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class External:
    """Data or a model that the user brings: known by its digest, found at its path."""

    digest: str
    path: str
    """On every machine that may run the step; or a URL, which the step has to open itself."""


@dataclass(frozen=True, slots=True)
class Each:
    """As an input: the step runs once per item of the list that ``step`` wrote to ``items.json``.

    The item becomes a parameter under the input's name, so an equal item shares its result
    wherever it stands in the list. A step that takes the fan-out as an input gets all its results.
    """

    step: str


@dataclass(frozen=True, slots=True)
class Approval:
    """A gate that a person opens, with ``gammaray approve RUN STEP``."""

    note: str = ""
    """What to look at before."""


@dataclass(frozen=True, slots=True)
class Timer:
    """A gate that opens this long after the step could have started; outlasts a restart."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One durable unit of a run: a function of parameters and input artifacts."""

    name: str
    """Unique in a run; becomes part of paths, such as ``"finetune-mod"``."""

    function: str
    """``"module:function"`` taking a ``StepContext``; imported only where it runs."""

    params: Mapping[str, JSON] = field(default_factory=dict)
    """What the result depends on."""

    inputs: Mapping[str, str | External | Each] = field(default_factory=dict)
    """Input name to the producing step's name, to data from outside, or to what to fan out over."""

    settings: Mapping[str, JSON] = field(default_factory=dict)
    """What the result does not depend on: worker counts, addresses, intervals. Not recorded."""

    version: int = 1
    """Raise it when the step comes to mean something else."""

    resources: Resources = Resources()
    retry: Retry = Retry()

    validate: str | None = None
    """``"module:function"`` for a step with an effect outside the store, such as a registered
    model: called before reuse with the ``Artifact`` and the settings, it returns whether the
    effect is still there. If not, the step runs again and a next generation of its manifest
    takes the place of the last."""

    catch: bool = False
    """Whether a permanent failure is a result: ``failure.json``, which later steps can read as
    ``Artifact.failure``. What passes (a lost node, a timeout) still ends the run, resumable."""

    checkpoint: bool = True
    """False for a cheap step: its result is not committed, and made again in a later run or epoch
    if a step that takes it must run. Steps after it see its key in the place of its result."""

    timeout_s: float | None = None
    """After this long an attempt is stopped and counts as a transient failure."""

    gate: Approval | Timer | None = None
    """What to wait for before it runs."""

    metadata: Mapping[str, JSON] = field(default_factory=dict)
    """Recorded beside the result; changes nothing."""

    template: str = ""
    """Of one step of a fan-out: the name of the step that was declared."""

    @property
    def fans_out_over(self) -> str:
        """The step for whose items it stands, one step for each; "" if it is a step itself."""
        return next((each.step for each in self.inputs.values() if isinstance(each, Each)), "")

    def __post_init__(self) -> None:
        self._check()
        for field_name in ("params", "settings", "metadata"):
            if not getattr(self, field_name):
                continue
            try:
                plain = json.loads(canonical(getattr(self, field_name), field_name))
            except (TypeError, ValueError) as error:
                raise StepError(self.name, str(error)) from error
            # What runs sees what the key saw: lists for tuples, plain dicts for any mapping.
            object.__setattr__(self, field_name, plain)

    def _check(self) -> None:
        for name in (self.name, *self.inputs):
            if not NAME.fullmatch(name):
                raise StepError(self.name, f"name must match {NAME.pattern}, got {name!r}")
        for function in (self.function, self.validate):
            if function is not None and not _FUNCTION.fullmatch(function):
                raise StepError(self.name, f'expected "package.module:function", got {function!r}')
        if self.version < 1:
            raise StepError(self.name, f"version must be at least 1, got {self.version}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise StepError(self.name, f"timeout_s must be positive, got {self.timeout_s}")
        if sum(isinstance(source, Each) for source in self.inputs.values()) > 1:
            raise StepError(self.name, "can fan out over one input only")
