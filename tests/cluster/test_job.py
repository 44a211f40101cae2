from pathlib import Path

import pytest

from tests.orchestrator.small_run import OVERRIDES, result_digests
from tests.ray_head import RayHead

pytestmark = pytest.mark.ray


def test_the_same_recipe_runs_as_a_ray_job_and_is_reused_when_submitted_again(
    ray_head: RayHead, tmp_path: Path
) -> None:
    command = ("gammaray", "run", "digits", *OVERRIDES, "--store", str(tmp_path))
    first = ray_head.ray_job_submit(*command, timeout_s=900.0)
    assert first.returncode == 0, first.stdout + first.stderr
    digests = result_digests(tmp_path)
    assert "report" in digests
    again = ray_head.submit("digits", *OVERRIDES, "--store", str(tmp_path), timeout_s=300.0)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "finetune-mod: reused" in again.stdout
    assert result_digests(tmp_path) == digests
