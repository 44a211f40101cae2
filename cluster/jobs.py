"""Ray's job API: reach a cluster, hand it a command, follow the command to its end."""

import asyncio
import os
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from cluster.errors import ClusterError, ExitCode, UsageError

CONNECT_TIMEOUT_S = 10.0
RECONNECT_DELAYS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
COMMAND_NOT_FOUND = 127

# Ray lets these win over an address that was asked for explicitly.
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOutcome:
    """How a job stands."""

    submission_id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    driver_exit_code: int | None = None
    """Exit code of the command; None while it runs, if it did not start or its node was lost."""
    message: str | None = None
    """What Ray says about it."""

    @property
    def has_ended(self) -> bool:
        """Whether the status is final."""
        return self.status not in {"PENDING", "RUNNING"}

    @property
    def exit_code(self) -> ExitCode:
        """The job's own exit code where it is one of ours, else the nearest."""
        if self.status == "FAILED" and self.driver_exit_code in set(ExitCode) - {ExitCode.DONE}:
            return ExitCode(self.driver_exit_code)
        by_status = {"FAILED": ExitCode.FAILED, "STOPPED": ExitCode.RESUMABLE}
        return by_status.get(self.status, ExitCode.DONE)

    def sentence(self) -> str:
        """One line for a person: what happened and, if it failed, why."""
        job = f"job {self.submission_id}"
        if self.status != "FAILED":
            return f"{job}: {self.status.lower()}"
        if self.driver_exit_code is None:
            return f"{job} failed: {self.message}"
        if self.driver_exit_code == COMMAND_NOT_FOUND:
            return (
                f"{job}: the command was not found on the cluster; its machines need gammaray "
                "on their PATH (use the project's image), or name it with --entrypoint"
            )
        return f"{job} failed with exit code {self.driver_exit_code}"


class JobDetails(Protocol):
    """The part of Ray's ``JobDetails`` that is used here."""

    status: Any
    """A member of Ray's ``JobStatus``."""
    driver_exit_code: int | None
    message: str | None


class JobClient(Protocol):
    """The part of ``ray.job_submission.JobSubmissionClient`` that is used here."""

    def submit_job(
        self,
        *,
        entrypoint: str,
        runtime_env: dict[str, Any] | None,
        submission_id: str | None,
        metadata: dict[str, str] | None,
    ) -> str:
        """Start a job; returns its submission id."""

    def get_job_info(self, job_id: str, /) -> "JobDetails":
        """Ask how a job stands."""

    def tail_job_logs(self, job_id: str, /) -> AsyncIterator[str]:
        """The job's output from its beginning until it ends or the connection is lost."""


class JobCluster:
    """A Ray cluster as its job API shows it.

    Args:
        client: Ray's client of the job API.
        address: ``http://HEAD:8265``, for messages.
        environment: Where the token's variables are looked up, for messages; Ray itself reads
            them from the process.
    """

    def __init__(self, client: JobClient, address: str, environment: Mapping[str, str]) -> None:
        self._client = client
        self.address = address
        self._environment = environment

    @classmethod
    def connect(cls, address: str, environment: Mapping[str, str]) -> "JobCluster":
        """Reach the cluster whose dashboard is at ``address``.

        Raises:
            UsageError: If ``address`` is not an http address.
            ClusterError: If nothing answers there, or it wants another token.
        """
        address = address.rstrip("/")
        _check_reachable(address)
        with _clear_errors(address, environment), _explicit_address():
            from ray.job_submission import JobSubmissionClient

            return cls(JobSubmissionClient(address), address, environment)

    def submit(
        self,
        shell_line: str,
        *,
        runtime_env: Mapping[str, Any],
        submission_id: str | None,
        metadata: Mapping[str, str],
    ) -> str:
        """Start ``shell_line`` on the head node; returns the job's submission id."""
        with _clear_errors(self.address, self._environment):
            return self._client.submit_job(
                entrypoint=shell_line,
                runtime_env=dict(runtime_env),
                submission_id=submission_id,
                metadata=dict(metadata),
            )

    def outcome(self, submission_id: str) -> JobOutcome:
        """Ask how a job stands."""
        with _clear_errors(self.address, self._environment):
            details = self._client.get_job_info(submission_id)
        return JobOutcome(
            submission_id=submission_id,
            status=str(details.status.value),
            driver_exit_code=details.driver_exit_code,
            message=details.message,
        )

    def follow(
        self,
        submission_id: str,
        write: Callable[[str], object],
        *,
        reconnect_delays_s: Sequence[float] = RECONNECT_DELAYS_S,
    ) -> JobOutcome:
        """Pass on the job's output until it ends.

        A lost connection is taken up again where it broke, after each of the delays in turn.

        Raises:
            ClusterError: If the cluster stays away; the job itself goes on.
        """
        position = 0

        def write_unseen(text: str, start: int) -> None:
            nonlocal position
            unseen = text[max(0, position - start) :]
            position += len(unseen)
            if unseen:
                write(unseen)

        delays = iter(reconnect_delays_s)
        while True:
            before = position
            try:
                asyncio.run(self._tail(submission_id, write_unseen))
                outcome = self.outcome(submission_id)
            except ClusterError as error:
                reason = str(error)
            else:
                if outcome.has_ended:
                    return outcome
                reason = "the log ended while the job was running"
            if position > before:
                delays = iter(reconnect_delays_s)
            delay = next(delays, None)
            if delay is None:
                raise ClusterError(
                    f"lost {self.address} ({reason}); the job goes on, follow it with: "
                    f"ray job logs --address {self.address} --follow {submission_id}"
                )
            time.sleep(delay)

    async def _tail(self, submission_id: str, write: Callable[[str, int], None]) -> None:
        """Write what comes, each piece with its place in the log."""
        import aiohttp

        start = 0
        try:
            async for text in self._client.tail_job_logs(submission_id):
                write(text, start)
                start += len(text)
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            raise ClusterError(str(error)) from error


@contextmanager
def _clear_errors(address: str, environment: Mapping[str, str]) -> Iterator[None]:
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(_token_message(address, environment, error.message)) from error
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"{address}: {error}") from error


def _token_message(address: str, environment: Mapping[str, str], said: str) -> str:
    missing = [name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN") if not environment.get(name)]
    state = f"not set here: {' and '.join(missing)}" if missing else "both are set here"
    return (
        f"{address} wants the cluster's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the "
        f"same value as on the cluster ({state}). It said: {said.splitlines()[0]}"
    )


def _check_reachable(address: str) -> None:
    """Fail within seconds where Ray's client would wait for minutes."""
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or parts.hostname is None:
        raise UsageError(
            f"--address {address}: expected the address of Ray's dashboard, "
            "such as http://HEAD:8265"
        )
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(
        parts.hostname
    ):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(
            f"{address} cannot be reached ({error.strerror or error}): is the head node up, was it "
            "started with its dashboard, and is the port forwarded to this machine?"
        ) from error


@contextmanager
def _explicit_address() -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
