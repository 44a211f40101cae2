from pathlib import Path

from orchestrator.tracking.source import _commit, source_tags


def test_the_version_of_the_code_is_known() -> None:
    assert source_tags()["gammaray.version"]


def test_a_folder_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    assert _commit(tmp_path) == ""
