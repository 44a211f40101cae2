import argparse
import json
from pathlib import Path

import pytest
import yaml

from cluster import submit
from cluster.plan import Plan
from tests.ray_head import RayHead

PLAN = Plan(
    run_id="digits-1",
    recipe="digits",
    store="/somewhere/local",
    workers=2,
    cpus_per_worker=1,
    gpus_per_worker=0,
    memory_gb_per_worker=4,
)
MANIFEST = ("--kuberay", "--image", "gammaray:0.1.0", "--store", "s3://bucket/runs")


def run_submit(*words: str) -> int:
    parser = argparse.ArgumentParser()
    submit.configure(parser)
    args = parser.parse_args(words)
    args.environment = {}
    return submit.execute(args)


@pytest.fixture
def _planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "read_plan", lambda recipe, overrides: PLAN)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    return file


@pytest.mark.usefixtures("_planned")
def test_a_manifest_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_submit("digits", "seed=3", *MANIFEST) == 0
    (job,) = yaml.safe_load_all(capsys.readouterr().out)
    assert job["spec"]["entrypoint"] == "gammaray run digits seed=3 --store s3://bucket/runs"


@pytest.mark.usefixtures("_planned")
def test_a_manifest_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    assert run_submit("digits", *MANIFEST, "--output", str(file)) == 0
    assert yaml.safe_load(file.read_text())["kind"] == "RayJob"
    said = capsys.readouterr()
    assert said.out == ""
    assert f"kubectl apply -f {file}" in said.err


@pytest.mark.usefixtures("_planned")
def test_a_manifest_may_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_submit("digits", *MANIFEST, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "List"


@pytest.mark.usefixtures("_planned")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["digits", "--kuberay"], "needs --image"),
        (["digits", "--kuberay", "--image", "gammaray:0.1.0"], "vanishes with it"),
        (["none.yaml", *MANIFEST], "no such recipe file"),
        (["digits", "--address", "head:6379"], "expected the address of Ray's dashboard"),
        (["digits", "--address", "http://127.0.0.1:9", "--store", "runs"], "relative path"),
    ],
)
def test_wrong_usage_is_told_before_anything_happens(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_submit(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err


def test_an_unreachable_cluster_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_submit("digits", "--address", "http://127.0.0.1:9") == 1
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.ray
def test_a_job_runs_on_the_cluster_and_its_output_comes_back(ray_head: RayHead) -> None:
    result = ray_head.submit("digits", "seed=7", "--entrypoint", "echo ran")
    assert result.returncode == 0, result.stderr
    assert "ran digits seed=7\n" in result.stdout
    assert "succeeded" in result.stderr


@pytest.mark.ray
def test_a_recipe_file_and_variables_travel_with_the_job(ray_head: RayHead, recipe: Path) -> None:
    shell = "sh -c 'cat $0; echo threads=$OMP_NUM_THREADS'"
    result = ray_head.submit(str(recipe), "--entrypoint", shell, "--env", "OMP_NUM_THREADS=3")
    assert result.returncode == 0, result.stderr
    assert "name: mine\nthreads=3\n" in result.stdout


@pytest.mark.ray
def test_submit_ends_with_the_jobs_own_exit_code(ray_head: RayHead) -> None:
    result = ray_head.submit("digits", "--entrypoint", "sh -c 'exit 3'", "--json")
    assert result.returncode == 3, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["status"] == "FAILED"
    assert outcome["driver_exit_code"] == outcome["exit_code"] == 3


@pytest.mark.ray
def test_a_submission_id_names_one_job_and_no_second(ray_head: RayHead) -> None:
    words = ("digits", "--submission-id", "the-one", "--no-wait", "--json")
    first = ray_head.submit(*words, "--entrypoint", "sleep 0.1; true")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["submission_id"] == "the-one"
    second = ray_head.submit(*words)
    assert second.returncode == 1
    assert "the-one" in second.stderr
    assert "already" in second.stderr


@pytest.mark.ray
@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_missing_or_wrong_token_says_what_to_set(ray_head: RayHead, token: str | None) -> None:
    environment = {
        name: value
        for name, value in ray_head.environment.items()
        if not name.startswith("RAY_AUTH")
    }
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    result = ray_head.submit("digits", environment=environment)
    assert result.returncode == 1
    assert "RAY_AUTH_MODE=token" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.ray
def test_an_explicit_address_wins_over_rays_variables(ray_head: RayHead) -> None:
    environment = dict(ray_head.environment) | {"RAY_ADDRESS": "http://127.0.0.1:9"}
    result = ray_head.submit("digits", "--entrypoint", "echo", environment=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.ray
def test_rays_own_command_reaches_the_same_head(ray_head: RayHead) -> None:
    result = ray_head.ray_job_submit("echo", "ran without gammaray")
    assert result.returncode == 0, result.stderr
    assert "ran without gammaray\n" in result.stdout
