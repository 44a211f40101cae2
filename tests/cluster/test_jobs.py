import re
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ClusterError, ExitCode, UsageError
from cluster.jobs import JobCluster, JobDetails, JobOutcome

ADDRESS = "http://head.example:8265"


def details(status: str, code: int | None = None) -> JobDetails:
    return SimpleNamespace(
        status=SimpleNamespace(value=status), driver_exit_code=code, message="said Ray"
    )


@dataclass
class ScriptedClient:
    """A job client whose connections break where the script says so."""

    connections: list[Sequence[str | Exception]] = field(default_factory=list)
    answers: list[JobDetails | Exception] = field(default_factory=list)
    submitted: dict[str, Any] = field(default_factory=dict)
    refusal: Exception | None = None

    def submit_job(self, **job: Any) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.submitted = job
        return "job-1"

    def get_job_info(self, job_id: str, /) -> JobDetails:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def tail_job_logs(self, job_id: str, /) -> AsyncIterator[str]:
        for text in self.connections.pop(0):
            if isinstance(text, Exception):
                raise text
            yield text


def follow(client: ScriptedClient, reconnects: int = 3) -> tuple[str, JobOutcome]:
    written: list[str] = []
    cluster = JobCluster(client, ADDRESS, {})
    outcome = cluster.follow("job-1", written.append, reconnect_delays_s=[0.0] * reconnects)
    return "".join(written), outcome


def test_follows_a_job_to_its_end() -> None:
    client = ScriptedClient([["one\n", "two\n"]], [details("SUCCEEDED", 0)])
    assert follow(client) == (
        "one\ntwo\n",
        JobOutcome(
            submission_id="job-1", status="SUCCEEDED", driver_exit_code=0, message="said Ray"
        ),
    )


def test_takes_up_a_lost_connection_where_it_broke() -> None:
    client = ScriptedClient(
        [["one\n", "tw", RuntimeError("closed")], ["one\ntwo\n", "three\n"]],
        [details("SUCCEEDED", 0)],
    )
    assert follow(client)[0] == "one\ntwo\nthree\n"


def test_takes_up_a_log_that_ended_before_its_job() -> None:
    client = ScriptedClient([["a"], ["ab"]], [details("RUNNING"), details("SUCCEEDED", 0)])
    assert follow(client)[0] == "ab"


def test_outlives_a_head_that_is_away_for_a_moment() -> None:
    client = ScriptedClient(
        [["a"], [OSError("refused")], ["ab"]],
        [OSError("refused"), details("SUCCEEDED", 0)],
    )
    assert follow(client)[0] == "ab"


def test_gives_up_after_its_last_reconnect_and_says_how_to_go_on() -> None:
    client = ScriptedClient([[OSError("refused")]] * 3)
    with pytest.raises(ClusterError, match=r"lost .*refused.*the job goes on.*ray job logs"):
        follow(client, reconnects=2)


def test_progress_renews_the_patience() -> None:
    broken = OSError("refused")
    client = ScriptedClient(
        [["a", broken], ["ab", broken], ["abc", broken], ["abcd"]], [details("SUCCEEDED", 0)]
    )
    assert follow(client, reconnects=1)[0] == "abcd"


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        ("SUCCEEDED", 0, ExitCode.DONE),
        ("RUNNING", None, ExitCode.DONE),
        ("STOPPED", None, ExitCode.RESUMABLE),
        ("FAILED", 1, ExitCode.FAILED),
        ("FAILED", 2, ExitCode.WRONG_USAGE),
        ("FAILED", 3, ExitCode.RESUMABLE),
        ("FAILED", 130, ExitCode.INTERRUPTED),
        ("FAILED", -9, ExitCode.FAILED),
        ("FAILED", 127, ExitCode.FAILED),
        ("FAILED", None, ExitCode.FAILED),
    ],
)
def test_the_exit_code_is_the_jobs_own(
    status: str, driver_exit_code: int | None, expected: ExitCode
) -> None:
    outcome = JobOutcome(submission_id="j", status=status, driver_exit_code=driver_exit_code)
    assert outcome.exit_code is expected


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        ("SUCCEEDED", 0, r"^job j: succeeded$"),
        ("FAILED", 3, r"^job j failed with exit code 3$"),
        ("FAILED", 127, r"command was not found.*--entrypoint"),
        ("FAILED", None, r"^job j failed: no such environment$"),
    ],
)
def test_the_sentence_says_what_happened(
    status: str, driver_exit_code: int | None, expected: str
) -> None:
    outcome = JobOutcome(
        submission_id="j",
        status=status,
        driver_exit_code=driver_exit_code,
        message="no such environment",
    )
    assert re.search(expected, outcome.sentence())


@pytest.mark.ray
@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "not set here: RAY_AUTH_MODE and RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token"}, "not set here: RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, "both are set here"),
    ],
)
def test_a_refused_token_names_the_variables(environment: dict[str, str], state: str) -> None:
    from ray.exceptions import AuthenticationError

    client = ScriptedClient(refusal=AuthenticationError("Forbidden"))
    cluster = JobCluster(client, ADDRESS, environment)
    with pytest.raises(ClusterError, match=rf"RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN.*{state}"):
        cluster.submit("true", runtime_env={}, submission_id=None, metadata={})


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "http://", "auto"])
def test_refuses_an_address_that_is_not_the_dashboards(address: str) -> None:
    with pytest.raises(UsageError, match="expected the address of Ray's dashboard"):
        JobCluster.connect(address, {})


def test_says_so_when_nothing_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, but not listening: nobody else can answer either
        port = listener.getsockname()[1]
        with pytest.raises(ClusterError, match=r"cannot be reached.*is the head node up"):
            JobCluster.connect(f"http://127.0.0.1:{port}", {})
