import errno
from collections import Counter

import pytest

from orchestrator.durable import Failure, Retry
from orchestrator.durable.failures import FailureKind, classify, retry_delay_s
from orchestrator.store import StoreError
from workloads.errors import DataError

SYSTEM, PREEMPTION, TRANSIENT, PERMANENT = FailureKind


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError(), TRANSIENT),
        (TimeoutError(), TRANSIENT),
        (OSError(errno.EHOSTUNREACH, "no route"), TRANSIENT),
        (StoreError("s3://b", "a", "slow", errno.ETIMEDOUT), TRANSIENT),
        (OSError(errno.ENOSPC, "full"), SYSTEM),
        (StoreError("file:///x", "a", "full", errno.EDQUOT), SYSTEM),
        (MemoryError(), SYSTEM),
        (PermissionError(errno.EACCES, "denied"), PERMANENT),
        (StoreError("file:///x", "a", "escapes"), PERMANENT),
        (ValueError(), PERMANENT),
        (DataError("a", "b", "c"), PERMANENT),
    ],
)
def test_errors_have_a_class(error: Exception, kind: FailureKind) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize(
    ("kind", "counts", "delay_s"),
    [
        (SYSTEM, {SYSTEM: 1}, 1.0),
        (SYSTEM, {SYSTEM: 2}, 2.0),
        (SYSTEM, {SYSTEM: 3}, None),
        (SYSTEM, {SYSTEM: 1, PREEMPTION: 9, TRANSIENT: 9}, 1.0),
        (PREEMPTION, {PREEMPTION: 10}, 60.0),
        (PREEMPTION, {PREEMPTION: 17}, None),
        (TRANSIENT, {TRANSIENT: 1}, None),
        (PERMANENT, {PERMANENT: 1}, None),
    ],
)
def test_each_class_has_its_own_budget(
    kind: FailureKind, counts: dict[FailureKind, int], delay_s: float | None
) -> None:
    assert retry_delay_s(kind, counts, Retry(system=2, transient=0)) == delay_s


def test_any_number_of_retries_has_a_wait() -> None:
    assert retry_delay_s(SYSTEM, Counter({SYSTEM: 5000}), Retry(system=9999)) == 60.0


def test_a_failure_keeps_the_error_and_where_it_was() -> None:
    with pytest.raises(DataError) as caught:
        raise DataError("train.json", "record 12", "image is missing")
    raised = Failure.of(caught.value).raised("data")
    assert isinstance(raised.__cause__, DataError)
    assert raised.exit_code == 1
    assert str(raised) == (
        "step 'data' failed (permanent): DataError: train.json: record 12: image is missing"
    )
    assert "test_a_failure_keeps_the_error" in raised.traceback_text


def test_an_error_that_cannot_travel_still_tells_its_story() -> None:
    failure = Failure.of(UnpicklableError("this", "that"))
    assert failure.error is None
    assert failure.raised("a").message == "this and that"


@pytest.mark.parametrize(("kind", "code"), [(SYSTEM, 3), (PREEMPTION, 3), (TRANSIENT, 3)])
def test_a_failure_that_may_pass_leaves_the_run_resumable(kind: FailureKind, code: int) -> None:
    assert Failure(kind=kind, error_type="E", message="m").raised("a").exit_code == code
