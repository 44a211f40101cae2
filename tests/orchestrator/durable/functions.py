"""What the steps of these tests do; a line in ``settings["log"]`` tells that one ran."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.durable import JSON, Artifact, StepContext
from workloads.errors import DataError


def log(context: StepContext) -> Path:
    return Path(str(context.settings["log"]))


def note(context: StepContext) -> None:
    with log(context).open("a") as file:
        file.write(f"{context.step}\n")


def write(context: StepContext) -> None:
    """Write the parameters and everything that comes in to one file."""
    note(context)
    taken = [
        file.read_text()
        for name in sorted(context.inputs)
        for file in sorted(context.inputs[name].path.iterdir())
    ]
    (context.output / "text").write_text(f"{sorted(context.params.items())} {taken}")
    (context.measurement / "time").write_text(str(time.time()))
    context.reporter.progress(1, 2, "lines", "half")
    context.reporter.metrics(3, {"loss": 0.5})
    context.reporter.message("written")


def fail_once(context: StepContext) -> None:
    """Fail the first time with the error that the settings name; leave half a result."""
    marker = log(context).with_suffix(".failed")
    if not marker.exists():
        marker.touch()
        (context.output / "half").write_text("half")
        raise {
            "connection": ConnectionResetError("peer went away"),
            "full": OSError(errno.ENOSPC, "No space left on device"),
            "bug": ZeroDivisionError("a bug"),
        }[str(context.settings["error"])]
    write(context)


def refuse_data(context: StepContext) -> None:
    note(context)
    raise DataError("train.json", "record 12", "image is missing")


def hang_once(context: StepContext) -> None:
    """Hang the first time, so that the test can kill the process."""
    marker = log(context).with_suffix(".hanging")
    note(context)
    if not marker.exists():
        (context.output / "half").write_text("half")
        context.store.create(f"{context.checkpoint_prefix}/{context.writer}/state", b"1")
        marker.touch()
        time.sleep(600)
    assert context.store.list(context.checkpoint_prefix), "the checkpoint is lost"
    (context.output / "text").write_text("whole")


def interrupt(context: StepContext) -> None:
    note(context)
    raise KeyboardInterrupt


def die_once(context: StepContext) -> None:
    """Kill the own process the first time, as a lost machine would."""
    marker = log(context).with_suffix(".died")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(context)


def die_once_if_told(context: StepContext) -> None:
    """Write, but kill the own process the first time if the parameters say so."""
    (die_once if context.params.get("dies") else write)(context)


def wait_for_cancel(context: StepContext) -> None:
    context.reporter.message("waiting")
    try:
        # Ray's interrupt does not end a sleep, so it is looked for between short ones.
        while True:
            time.sleep(0.02)
    finally:
        log(context).with_suffix(".stopped").touch()


def nothing(context: StepContext) -> None:
    """Leave no file at all."""


def link(context: StepContext) -> None:
    (context.output / "link").symlink_to("/etc/hostname")


def has_effect(artifact: Artifact, settings: Mapping[str, JSON]) -> bool:
    assert artifact.path.is_dir()
    return Path(str(settings["effect"])).exists()


def report_from_workers(context: StepContext) -> None:
    import ray

    def report(rank: int) -> None:
        context_reporter.message(f"from {rank}")

    context_reporter = context.reporter
    ray.get([ray.remote(num_cpus=0)(report).remote(rank) for rank in range(2)])


def split(context: StepContext) -> None:
    """Return the list that the parameters name."""
    note(context)
    (context.output / "items.json").write_text(json.dumps(context.params["items"]))


def double(context: StepContext) -> None:
    note(context)
    item = context.params["item"]
    assert isinstance(item, int)
    (context.output / "doubled").write_text(str(2 * item))


def add_up(context: StepContext) -> None:
    note(context)
    parts = [artifact.path / "doubled" for artifact in context.inputs.values()]
    (context.output / "sum").write_text(str(sum(int(part.read_text()) for part in parts)))


def fail_always(context: StepContext) -> None:
    note(context)
    (context.output / "half").write_text("half")
    raise ZeroDivisionError("a bug")


def tell_failure(context: StepContext) -> None:
    note(context)
    failures = {name: artifact.failure for name, artifact in context.inputs.items()}
    (context.output / "failures").write_text(json.dumps(failures, sort_keys=True))


def talk(context: StepContext) -> None:
    """Print, as code does that knows nothing of reporters."""
    sys.stdout.write("to out\n")
    sys.stderr.write("to err\n")
    write(context)


def write_by_key(context: StepContext) -> None:
    """Write what comes in; note the key."""
    with log(context).open("a") as file:
        file.write(f"{context.key}\n")
    taken = [
        (name, (artifact.path / "text").read_text())
        for name, artifact in sorted(context.inputs.items())
    ]
    (context.output / "text").write_text(f"{context.params} {taken}")


def repeat_the_address(context: StepContext) -> None:
    """Say and raise what an HTTP client says of a server that is away."""
    said = f"API request to {context.settings['address']}/api/2.0 failed"
    context.reporter.message(said)
    sys.stderr.write(f"{said}\n")
    raise PermissionError(said)
