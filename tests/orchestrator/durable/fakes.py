"""Stand-ins that take no time: a clock, a listener, and an executor that follows a script."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from orchestrator.durable import Failure, Manifest, Observer, Resources, Runner, Step, Store
from orchestrator.durable.attempt import Task
from orchestrator.durable.executor import Capacity, InProcessExecutor, Outcome, Send
from orchestrator.durable.failures import FailureKind

HERE = "tests.orchestrator.durable.functions"


class FakeClock:
    """Time that passes only in sleep; ``on_sleep`` is what happens meanwhile."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now_s, self.on_sleep = 1000.0, on_sleep

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float, /) -> None:
        self.now_s += seconds
        self.on_sleep()


class Listener(Observer):
    """Remembers in one line each what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failures: list[Failure] = []

    def step_reused(self, step: str, manifest: Manifest) -> None:
        self.heard.append(f"{step} reused")

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        self.heard.append(f"{step} started {attempt}")

    def progress(self, step: str, done: int, total: int, unit: str, note: str) -> None:
        self.heard.append(f"{step} {done}/{total} {unit} {note}")

    def metrics(self, step: str, at: int, values: object) -> None:
        self.heard.append(f"{step} {at} {values}")

    def message(self, step: str, text: str) -> None:
        self.heard.append(f"{step} says {text}")

    def step_finished(self, step: str, manifest: Manifest) -> None:
        self.heard.append(f"{step} finished")

    def step_failed(self, step: str, failure: Failure, retry_in_s: float | None) -> None:
        self.heard.append(f"{step} failed {failure.kind} retry {retry_in_s}")
        self.failures.append(failure)

    def events_of(self, *words: str) -> list[str]:
        return [line for line in self.heard if line.split()[1] in words]


class ScriptedExecutor:
    """Ends attempts in the order and the way the test says."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        self._capacity = capacity or Capacity()
        self.submitted: list[Task] = []
        self.outcomes: deque[Outcome] = deque()
        self.is_cancelled = self.is_closed = False
        self.stopped: list[str] = []

    def capacity(self) -> Capacity:
        return self._capacity

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted += tasks

    def poll(self, wait_s: float) -> list[Outcome]:
        ended, self.outcomes = list(self.outcomes), deque()
        return ended

    def cancel(self, steps: Collection[str] | None = None) -> None:
        self.is_cancelled = steps is None
        self.stopped += steps or []

    def close(self) -> None:
        self.is_closed = True

    def __call__(self, send: Send) -> "ScriptedExecutor":
        return self

    def succeed(self, name: str) -> None:
        task = next(task for task in reversed(self.submitted) if task.step.name == name)
        manifest = Manifest(
            key=task.key, generation=0, root=task.root, files=(), measurements=(), values={}
        )
        self.outcomes.append(Outcome(name, manifest))

    def fail(self, name: str, kind: FailureKind) -> None:
        failure = Failure(kind=kind, error_type="ScriptedError", message="as scripted")
        self.outcomes.append(Outcome(name, failure))


class Steps:
    """Declares steps over the functions beside this file, and runs them."""

    def __init__(self, store: Store, log: Path) -> None:
        self.store, self._log = store, log

    def step(self, name: str, function: str = "write", **fields: object) -> Step:
        settings = {"log": str(self._log), **fields.pop("settings", {})}  # type: ignore[dict-item]
        return Step(name=name, function=f"{HERE}:{function}", settings=settings, **fields)  # type: ignore[arg-type]

    def chain(self, *functions: str, **params: object) -> list[Step]:
        """``a -> b -> c``; the parameters are those of ``b``."""
        steps: list[Step] = []
        for name, function in zip("abcdefgh", functions or ("write",) * 3, strict=False):
            inputs = {"before": steps[-1].name} if steps else {}
            given = params if name == "b" else {}
            steps.append(self.step(name, function, inputs=inputs, params=given))
        return steps

    def run(self, steps: Sequence[Step], **options: object) -> Listener:
        """Run in this process and return what was heard."""
        listener = Listener()
        usual = {
            "start_executor": InProcessExecutor,
            "clock": FakeClock(),
            "observer": listener,
        }
        Runner("run", steps, self.store, **usual | options).run()  # type: ignore[arg-type]
        return listener

    def ran(self) -> list[str]:
        """Names of steps whose functions were called, in order, with repeats."""
        return self._log.read_text().split() if self._log.exists() else []


NOTHING = Resources(cpus=0)
