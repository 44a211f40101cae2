import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from workloads.models import EMBEDDED, ModelError, resolve_model


def test_finds_the_embedded_model_by_name() -> None:
    assert resolve_model("digits") == EMBEDDED["digits"].resolve()


def test_finds_a_folder_by_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path.resolve()
    assert resolve_model(str(tmp_path)) == tmp_path.resolve()


def test_says_what_it_knows_when_there_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'.*/gone': no such folder.*one of: digits"):
        resolve_model(tmp_path / "gone")


def test_refuses_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve_model(tmp_path)


def test_its_errors_survive_pickling() -> None:
    error = ModelError("name", "reason")
    assert str(pickle.loads(pickle.dumps(error))) == "model 'name': reason"


def test_finding_a_model_does_not_wait_for_torch() -> None:
    code = (
        "import sys, workloads.models.locate; "
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
