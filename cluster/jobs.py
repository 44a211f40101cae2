"""Ray's job API: reach a cluster, hand it a command, follow the command to its end."""

import asyncio
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
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
    """Exit code of the command; None while it runs, or if it never started."""
    message: str | None = None
    """What Ray says about it."""

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
            return f"{job} did not start: {self.message}"
        if self.driver_exit_code == COMMAND_NOT_FOUND:
            return (
                f"{job}: the command was not found on the cluster; its machines need gammaray "
                "on their PATH (use the project's image), or name it with --entrypoint"
            )
        return f"{job} failed with exit code {self.driver_exit_code}"


class JobCluster:
    """A Ray cluster as its job API shows it.

    Args:
        address: ``http://HEAD:8265``, the address of Ray's dashboard.
        environment: Where ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` are looked up for messages;
            Ray itself reads them from the process.

    Raises:
        UsageError: If ``address`` is not an http address.
        ClusterError: If nothing answers there, or it wants another token.
    """

    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        self.address = address.rstrip("/")
        self._environment = environment
        _check_reachable(self.address)
        with self._clear_errors(), _explicit_address():
            from ray.job_submission import JobSubmissionClient

            self._client = JobSubmissionClient(self.address)

    def submit(
        self,
        shell_line: str,
        *,
        runtime_env: Mapping[str, Any],
        submission_id: str | None,
        metadata: Mapping[str, str],
    ) -> str:
        """Start ``shell_line`` on the head node; returns the job's submission id."""
        with self._clear_errors():
            return self._client.submit_job(
                entrypoint=shell_line,
                runtime_env=dict(runtime_env),
                submission_id=submission_id,
                metadata=dict(metadata),
            )

    def outcome(self, submission_id: str) -> JobOutcome:
        """Ask how a job stands."""
        with self._clear_errors():
            details = self._client.get_job_info(submission_id)
        return JobOutcome(
            submission_id=submission_id,
            status=str(details.status.value),
            driver_exit_code=details.driver_exit_code,
            message=details.message,
        )

    def follow(self, submission_id: str, write: Callable[[str], object]) -> JobOutcome:
        """Pass on the job's output until it ends.

        A lost connection is taken up again where it broke, for about a minute.

        Raises:
            ClusterError: If the cluster stays away; the job itself goes on.
        """
        return asyncio.run(self._follow(submission_id, write))

    async def _follow(self, submission_id: str, write: Callable[[str], object]) -> JobOutcome:
        import aiohttp

        written = 0
        delays = iter(RECONNECT_DELAYS_S)
        while True:
            position = 0
            try:
                async for text in self._client.tail_job_logs(submission_id):
                    # Ray sends the log from its beginning after every connection.
                    unseen = text[max(0, written - position) :]
                    position += len(text)
                    if unseen:
                        write(unseen)
                        written = position
                        delays = iter(RECONNECT_DELAYS_S)
                outcome = self.outcome(submission_id)
                if outcome.status not in {"PENDING", "RUNNING"}:
                    return outcome
                reason = "the log ended while the job was running"
            except (OSError, RuntimeError, aiohttp.ClientError, ClusterError) as error:
                reason = str(error)
            delay = next(delays, None)
            if delay is None:
                raise ClusterError(
                    f"lost {self.address} ({reason}); the job goes on: "
                    f"ray job logs --address {self.address} --follow {submission_id}"
                )
            await asyncio.sleep(delay)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(self._token_message(str(error))) from error
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{self.address}: {error}") from error

    def _token_message(self, said: str) -> str:
        missing = [
            name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN") if name not in self._environment
        ]
        if missing:
            state = f"not set here: {' and '.join(missing)}"
        else:
            state = f"RAY_AUTH_MODE is {self._environment['RAY_AUTH_MODE']!r} and a token is set"
        return (
            f"{self.address} wants the cluster's token: set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN to the same value as on the cluster ({state}). "
            f"It said: {said.splitlines()[0]}"
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
