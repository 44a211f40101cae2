"""How large a server is, and where it listens; checked where it is made."""

from dataclasses import dataclass

from orchestrator.serving.errors import ServingError

_PORTS = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What `gammaray serve` can be told.

    Raises:
        ServingError: If a value is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    cpus: float = 1.0
    """Of one replica."""
    gpus: float = 0.0
    """Of one replica; it computes on the CPUs if there are none."""
    max_batch: int = 8
    """Questions that a replica answers together."""
    batch_wait_s: float = 0.01
    """How long the first question of a batch waits for others."""
    max_queue: int = 64
    """Questions that may wait."""
    max_tokens: int = 256
    """Longest answer where a request sets no limit."""
    max_body_mib: int = 32
    """Largest request."""

    def __post_init__(self) -> None:
        _check("--port", self.port, 1 <= self.port <= _PORTS, f"from 1 to {_PORTS}")
        _check("--replicas", self.replicas, self.replicas >= 1, "at least 1")
        _check("--cpus", self.cpus, self.cpus > 0, "more than 0")
        _check("--gpus", self.gpus, self.gpus >= 0, "at least 0")
        _check("--max-batch", self.max_batch, self.max_batch >= 1, "at least 1")
        _check("--batch-wait", self.batch_wait_s, self.batch_wait_s >= 0, "at least 0 seconds")
        _check("--max-queue", self.max_queue, self.max_queue >= 0, "at least 0")
        _check("--max-tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("--max-body", self.max_body_mib, self.max_body_mib >= 1, "at least 1 MiB")

    @property
    def max_open(self) -> int:
        """Questions that may be open, answered and waiting."""
        return self.replicas * self.max_batch + self.max_queue

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


def _check(option: str, value: float, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ServingError(f"{option}: expected {expected}, got {value:g}")
