"""Against a real service, started by these tests; trouble is made in front of it."""

import os
import pickle
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import ArtifactChangedError
from orchestrator.artifacts.manifest import committed_for
from orchestrator.durable import InProcessExecutor, Runner
from orchestrator.ownership import Lease, RunOwnedError, claim
from orchestrator.ownership.epochs import last_epoch
from orchestrator.store import Store, StoreError, open_store
from tests.orchestrator.durable.fakes import FakeClock, Steps
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bucket(s3: S3Server) -> Store:
    return open_store(f"s3://bucket/{uuid.uuid4().hex}")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, remembered and not made."""
    pauses: list[float] = []
    monkeypatch.setattr("orchestrator.store.remote.time.sleep", pauses.append)
    return pauses


Disturb = Callable[..., None]


@pytest.fixture
def disturbed(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """``disturbed(method, *behaviours)``: each behaviour is given the real call and one try."""
    filesystem = bucket._filesystem  # type: ignore[attr-defined]

    def disturb(method: str, *behaviours: Callable[..., Any]) -> None:
        real, left = getattr(filesystem, method), list(behaviours)

        def call(*args: object, **kwargs: object) -> object:
            behave = left.pop(0) if left else None
            return behave(real, *args, **kwargs) if behave else real(*args, **kwargs)

        monkeypatch.setattr(filesystem, method, call)

    return disturb


def slow_down(real: object, *args: object, **kwargs: object) -> None:
    raise_answer(503, "SlowDown", "Please reduce your request rate")


def forbid(real: object, *args: object, **kwargs: object) -> None:
    raise_answer(403, "AccessDenied", "not for http://user:not-to-be-seen@there")


def lose_answer(real: Callable[..., Any], *args: object, **kwargs: object) -> None:
    real(*args, **kwargs)
    raise ConnectionResetError("connection lost")


def raise_answer(status: int, code: str, message: str) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    raise translate_boto_error(ClientError(answer, "PutObject"))


def test_a_run_on_s3_is_continued_by_another_driver(bucket: Store, tmp_path: Path) -> None:
    steps = Steps(bucket, tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        steps.run(steps.chain("write", "interrupt", "write"))
    result = Runner(
        "run", steps.chain(rate=0.5), open_store(bucket.url), start_executor=InProcessExecutor
    ).run()
    assert steps.ran() == ["a", "b", "b", "c"]
    assert (result.artifact("c", tmp_path).path / "text").read_text().startswith("[]")
    assert bucket.list("checkpoints") == []


def test_of_two_driver_processes_one_gets_the_run(bucket: Store) -> None:
    code = """
import sys, time
from orchestrator.ownership import RunOwnedError
from orchestrator.ownership import Lease, claim
from orchestrator.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    own = claim(store, "run", lease=Lease(ttl_s=2, beat_s=0.1), clock=time, tell=lambda text: None)
    own.keep()
    print("owns", flush=True)
except RunOwnedError:
    print("refused", flush=True)
sys.stdin.readline()
"""
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code, bucket.url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def hear(driver: "subprocess.Popen[str]") -> str:
        assert driver.stdout is not None
        return driver.stdout.readline().strip()

    def poke(driver: "subprocess.Popen[str]") -> None:
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()

    try:
        assert [hear(driver) for driver in drivers] == ["ready"] * 2
        for driver in drivers:
            poke(driver)
        assert sorted(hear(driver) for driver in drivers) == ["owns", "refused"]
        assert last_epoch(bucket, "run") == 1
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()


def test_a_claim_whose_answer_was_lost_is_still_ours(
    bucket: Store, disturbed: Disturb, no_waiting: list[float]
) -> None:
    disturbed("pipe_file", None, None, lose_answer)  # the first two are the probe
    assert claim(bucket, "run", lease=Lease(), clock=FakeClock(), tell=print).epoch == 1
    assert len(no_waiting) == 1


def test_a_commit_that_came_second_finds_the_first(bucket: Store, tmp_path: Path) -> None:
    steps = Steps(bucket, tmp_path / "log")
    steps.run(steps.chain("write"))
    (manifest,) = committed_for(bucket, "a")
    assert not bucket.create(manifest.path, b"late")
    assert committed_for(bucket, "a") == [manifest]


def test_throttling_is_waited_out(
    bucket: Store, disturbed: Disturb, no_waiting: list[float]
) -> None:
    disturbed("pipe_file", slow_down, slow_down)
    assert bucket.create("object", b"data")
    assert bucket.read("object") == b"data"
    assert [0.25 <= no_waiting[0] <= 0.5, 1.0 <= no_waiting[1] <= 2.0] == [True, True]


def test_a_service_that_stays_away_leaves_the_run_resumable(
    bucket: Store, disturbed: Disturb, no_waiting: list[float]
) -> None:
    disturbed("cat_file", *[slow_down] * 9)
    with pytest.raises(StoreError, match="cannot read: OSError") as caught:
        bucket.read("object")
    assert caught.value.exit_code == 3
    assert len(no_waiting) == 2


def test_what_is_forbidden_is_not_tried_again(
    bucket: Store, disturbed: Disturb, no_waiting: list[float]
) -> None:
    disturbed("pipe_file", forbid)
    with pytest.raises(StoreError, match="cannot write: PermissionError: not for http://there"):
        bucket.overwrite("object", b"")
    assert no_waiting == []


def test_a_service_that_ignores_the_condition_gets_no_driver(
    bucket: Store, disturbed: Disturb
) -> None:
    def overwrite(real: Callable[..., Any], *args: object, mode: str = "") -> None:
        real(*args)

    disturbed("pipe_file", *[overwrite] * 9)
    with pytest.raises(StoreError, match="overwrites where it was asked to create only"):
        claim(bucket, "run", lease=Lease(), clock=FakeClock(), tell=print)
    assert bucket.list("runs") == []
    assert bucket.list("probe") == []


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(bucket: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    piece = os.urandom(1 << 20)
    with source.open("wb") as file:
        for number in range(33):
            file.write(number.to_bytes(8, "big") + piece[8:])
    record = bucket.upload(source, "model")
    etag = bucket._filesystem.info(f"{bucket._root}/model")["ETag"]  # type: ignore[attr-defined]
    assert etag.endswith('-3"'), "three parts"
    bucket.download("model", target)
    assert (record.size, target.read_bytes()) == (source.stat().st_size, source.read_bytes())


def test_a_download_that_was_cut_short_is_repeated(
    bucket: Store, disturbed: Disturb, tmp_path: Path
) -> None:
    def truncate(real: Callable[..., Any], path: str, local: str) -> None:
        real(path, local)
        os.truncate(local, 3)

    steps = Steps(bucket, tmp_path / "log")
    steps.run(steps.chain("write"))
    disturbed("get_file", truncate)
    steps.run(steps.chain("write", "write"))
    assert steps.ran() == ["a", "b"]


def test_an_object_changed_after_its_commit_is_refused(bucket: Store, tmp_path: Path) -> None:
    steps = Steps(bucket, tmp_path / "log")
    result = Runner("run", steps.chain("write"), bucket, start_executor=InProcessExecutor).run()
    bucket.overwrite(f"{result.manifests['a'].root}/result/text", b"other")
    with pytest.raises(ArtifactChangedError, match="changed after its commit"):
        result.artifact("a", tmp_path)


def test_an_address_with_credentials_is_refused_without_showing_them() -> None:
    for url in ("s3://user:not-to-be-seen@bucket/prefix", "s3://bucket/prefix?key=not-to-be-seen"):
        with pytest.raises(StoreError, match="by the environment") as caught:
            open_store(url)
        assert "not-to-be-seen" not in str(caught.value)


def test_no_error_shows_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-seen")
    s3fs.S3FileSystem.clear_instance_cache()  # one instance keeps what it was opened with
    with pytest.raises(StoreError, match="cannot read") as caught:
        open_store(f"s3://bucket/{uuid.uuid4().hex}")
    s3fs.S3FileSystem.clear_instance_cache()
    shown = "".join(traceback.format_exception(caught.value)) + repr(pickle.dumps(caught.value))
    assert "not-to-be-seen" not in shown
    assert "Authorization" not in shown


def test_no_credential_is_written(
    bucket: Store, s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = Steps(bucket, tmp_path / "log")
    steps.run(steps.chain())
    own = claim(bucket, "other", lease=Lease(), clock=FakeClock(), tell=print)
    with pytest.raises(RunOwnedError):
        claim(bucket, "other", lease=Lease(), clock=FakeClock(own.beat), tell=print)
    for path in ("runs", "manifests", "artifacts"):
        for name in bucket.list(path):
            assert s3.secret not in name + bucket.read(name).decode()
    assert s3.secret not in "".join(capfd.readouterr())
