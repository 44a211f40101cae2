"""The processes of a disturbed run: the driver, what Ray started for it, and what is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "GAMMARAY_CHAOS"
"""Environment variable that every process of an arena inherits."""


class Driver:
    """One ``gammaray run`` and its descendants."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], offset: Path, log: Path
    ) -> None:
        command = [sys.executable, "-m", "orchestrator.chaos", str(offset), *arguments]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs, stopped or not."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: If it does not end.
        """
        return self._process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    def workers(self) -> list[psutil.Process]:
        """Ray workers that have something to do, oldest first."""
        return [
            process
            for process in self._descendants()
            if (title := _title(process)).startswith("ray::") and "IDLE" not in title
        ]

    def raylets(self) -> list[psutil.Process]:
        """Ray's daemon, once it has started."""
        return [process for process in self._descendants() if _name(process) == "raylet"]

    def _descendants(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self._process.pid).children(recursive=True))
        return []


def marked(token: str) -> list[psutil.Process]:
    """Processes of this machine that were started for the arena of that token."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_ours = process.environ().get(MARK) == token and process.pid != os.getpid()
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(processes: Sequence[psutil.Process]) -> None:
    """End them at once."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""
