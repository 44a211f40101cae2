"""What the steps of these tests do; a line in the log tells that one ran, and on which node."""

import os
import time
from pathlib import Path

import ray

from orchestrator.durable import StepContext

PATIENCE_S = 120.0


def note(context: StepContext) -> None:
    node = ray.get_runtime_context().get_node_id()
    line = f"{context.step} {context.epoch} {context.attempt} {node} {os.getpid()}\n"
    with Path(str(context.settings["log"])).open("a") as log:
        log.write(line)


def write(context: StepContext) -> None:
    """Write what comes in."""
    note(context)
    taken = [context.inputs[name].path / "text" for name in sorted(context.inputs)]
    text = "".join(path.read_text() for path in taken)
    (context.output / "text").write_text(f"{text}{context.step}\n")


def wait_and_write(context: StepContext) -> None:
    """The same, but not before there is a file called ``go-EPOCH-ATTEMPT`` or ``go``."""
    write(context)
    go = [Path(str(context.settings["log"])).with_name("go")]
    go.append(go[0].with_name(f"go-{context.epoch}-{context.attempt}"))
    end_s = time.monotonic() + PATIENCE_S
    while not any(path.exists() for path in go) and time.monotonic() < end_s:
        time.sleep(0.02)


def wait_and_sign(context: StepContext) -> None:
    """The same, with a result that tells which attempt made it, as no real step's does."""
    wait_and_write(context)
    with (context.output / "text").open("a") as file:
        file.write(f"attempt {context.attempt}\n")
