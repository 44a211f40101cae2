import os
import uuid
from pathlib import Path

import pytest

from orchestrator.durable import Store, open_store
from tests.orchestrator.durable.fakes import Steps


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(f"memory://{uuid.uuid4().hex}/prefix")


@pytest.fixture
def steps(store: Store, tmp_path: Path) -> Steps:
    return Steps(store, tmp_path / "log")
