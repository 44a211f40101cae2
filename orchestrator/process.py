"""Which process this is among those of all machines, and whether another one is gone."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """What tells a process of this machine, by default this one, from any other on any machine."""
    pid = pid or os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": pid,
        "process_start": _process_start(pid),
    }


def is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the process of an identity is certainly gone: only its own host can tell."""
    here = process_identity()
    if not here["boot"] or any(owner.get(name) != here[name] for name in ("host", "boot")):
        return False
    start = _process_start(int(owner["pid"]))
    return not start or start != owner.get("process_start")


def _boot() -> str:
    """Boot of the kernel and process namespace: two containers share the first, not the second."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Start of a process in ticks since boot; "" when there is none, or only its zombie."""
    try:
        # The name in parentheses may hold anything, so fields are counted behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
