from pathlib import Path, PurePosixPath

import pytest

from cluster.entrypoint import Entrypoint, environment_variables, is_remote
from cluster.errors import UsageError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    return file


def test_a_built_in_recipe_is_called_by_its_name() -> None:
    entrypoint = Entrypoint(recipe="digits", overrides=("seed=1", "name=a b"), store="s3://b/runs")
    assert entrypoint.shell_line() == "gammaray run digits seed=1 'name=a b' --store s3://b/runs"


def test_a_recipe_file_is_called_by_where_it_lies_on_the_cluster(recipe: Path) -> None:
    entrypoint = Entrypoint(recipe=str(recipe))
    assert entrypoint.shell_line() == "gammaray run mine.yaml"
    assert entrypoint.shell_line(PurePosixPath("/etc/x")) == "gammaray run /etc/x/mine.yaml"


def test_another_command_may_take_the_recipe() -> None:
    entrypoint = Entrypoint(recipe="digits", command="/opt/bin/gammaray run --json")
    assert entrypoint.shell_line() == "/opt/bin/gammaray run --json digits"


def test_refuses_a_recipe_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: no such recipe file"):
        Entrypoint(recipe=str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("override", ["seed", "=1", "seed 1=2"])
def test_refuses_what_is_no_override(override: str) -> None:
    with pytest.raises(UsageError, match=r"expected key=value"):
        Entrypoint(recipe="digits", overrides=(override,))


@pytest.mark.parametrize("store", ["runs", "./runs", "../runs"])
def test_refuses_a_store_that_means_another_folder_on_the_cluster(store: str) -> None:
    with pytest.raises(UsageError, match="relative path is another folder on the cluster"):
        Entrypoint(recipe="digits", store=store)


@pytest.mark.parametrize(
    ("store", "remote"),
    [("s3://bucket/a", True), ("gs://b", True), ("/data", False), ("file:///data", False)],
)
def test_only_urls_are_one_place_for_all_machines(store: str, remote: bool) -> None:
    assert is_remote(store) is remote


def test_the_environment_can_be_overridden() -> None:
    assert environment_variables(["OMP_NUM_THREADS=4", "EMPTY="]) == {
        "OMP_NUM_THREADS": "4",
        "TOKENIZERS_PARALLELISM": "false",
        "EMPTY": "",
    }


@pytest.mark.parametrize("assignment", ["HF_TOKEN=x", "AWS_SECRET_ACCESS_KEY=x", "API_KEY=x"])
def test_refuses_to_write_a_secret_where_everybody_reads_it(assignment: str) -> None:
    with pytest.raises(UsageError, match="readable in the dashboard"):
        environment_variables([assignment])


@pytest.mark.parametrize("assignment", ["NAME", "A B=1", "=1"])
def test_refuses_what_is_no_variable(assignment: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE"):
        environment_variables([assignment])
