import os
from pathlib import Path
from typing import NoReturn

import pytest
import ray

from orchestrator.cli import ExitCode
from orchestrator.ray_connection import RayUnavailableError, connect


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "Ray on this machine does not start .no time.*again"), ("h:1", "Ray at h:1 is no use")],
)
def test_a_ray_that_cannot_be_used_is_named_with_what_to_do(
    address: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> NoReturn:
        raise Exception("no time")  # noqa: TRY002 - what Ray raises

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(RayUnavailableError, match=message) as caught:
        connect(address, uses_gpus=False)
    assert caught.value.exit_code == ExitCode.RESUMABLE


@pytest.mark.parametrize(("depth", "expected"), [(5, None), (60, "/tmp/ray")])
def test_a_temporary_folder_too_deep_for_sockets_is_not_given_to_ray(
    depth: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "environ", {"TMPDIR": str(Path("/tmp", "d" * depth))})
    connect(None, uses_gpus=False)
    assert given.get("_temp_dir") == expected
