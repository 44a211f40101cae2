"""The main job as a user has it: one command, killed anywhere, given again."""

import signal
import time
from pathlib import Path

import pytest

from tests.orchestrator.small_run import driver, result_digests
from tests.workloads.small_qwen import small_qwen
from workloads.model_folder import save_model_folder

pytestmark = pytest.mark.ray

STAGES = (
    "data",
    "align",
    "arank",
    "convert",
    "finetune-dense",
    "finetune-mod",
    "evaluate-dense",
    "evaluate-mod",
    "efficiency",
    "register",
    "report",
)
TRAININGS = ("align", "finetune-dense", "finetune-mod")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed")
    with driver(store) as run:
        assert run.finish() == 0, "\n".join(run.said)
    return store


def test_the_run_ends_with_one_result_for_every_stage(undisturbed: Path) -> None:
    digests = result_digests(undisturbed)
    assert sorted(digests) == sorted(STAGES)
    assert all(len(found) == 1 for found in digests.values())


def test_the_same_command_again_reuses_everything_and_says_so(undisturbed: Path) -> None:
    with driver(undisturbed) as run:
        assert run.finish() == 0
    assert [line for line in run.said if line.endswith(": reused")] == [
        f"{stage}: reused" for stage in dict.fromkeys(_order(run.said))
    ]
    assert not any(": started" in line for line in run.said)


def test_killed_in_every_stage_it_goes_on_to_the_same_results(
    undisturbed: Path, tmp_path: Path
) -> None:
    for stage in STAGES:
        with driver(tmp_path) as run:
            if not run.wait_for(f"{stage}: started", f"{stage}: reused"):
                continue
            if stage in TRAININGS:
                run.wait_for_checkpoint()
            else:
                time.sleep(1.0)
            run.kill()
    with driver(tmp_path) as run:
        assert run.finish() == 0, "\n".join(run.said)
    assert result_digests(tmp_path) == result_digests(undisturbed)


@pytest.mark.slow
def test_a_family_with_images_of_any_size_goes_through_the_whole_run(tmp_path: Path) -> None:
    save_model_folder(*small_qwen(), tmp_path / "model")
    with driver(tmp_path / "store", f"model={tmp_path}/model", "mod.warm_start=16") as run:
        assert run.finish() == 0, "\n".join(run.said)
    assert sorted(result_digests(tmp_path / "store")) == sorted(STAGES)


@pytest.mark.slow
def test_killed_after_every_stage_it_goes_on_to_the_same_results(
    undisturbed: Path, tmp_path: Path
) -> None:
    for stage in STAGES:
        _kill_after(stage, tmp_path)
    with driver(tmp_path) as run:
        assert run.finish() == 0, "\n".join(run.said)
    assert result_digests(tmp_path) == result_digests(undisturbed)


def test_interrupted_it_says_how_to_go_on_and_does(undisturbed: Path, tmp_path: Path) -> None:
    with driver(tmp_path, "seed=1") as run:
        assert run.wait_for("data: started")
        assert run.kill(signal.SIGINT) == 130
        run.finish()
    assert "gammaray: interrupted; the same command continues from here" in run.said


def _kill_after(stage: str, store: Path) -> None:
    """Kill a driver at the boundary behind a stage; one that Ray does not start for ends with 3."""
    for _ in range(3):
        with driver(store) as run:
            if run.wait_for(f"{stage}: done", f"{stage}: reused"):
                run.kill()
                return
            assert run.finish() == 3, "\n".join(run.said)
    raise AssertionError(f"{stage} was never done: {run.said}")


def _order(said: list[str]) -> list[str]:
    return [line.split(":")[0] for line in said if line.endswith(": reused")]
