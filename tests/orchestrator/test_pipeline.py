import json
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from orchestrator.durable import External, Step
from orchestrator.errors import PreflightError
from orchestrator.pipeline import build_steps, needed_for
from orchestrator.recipe_file import load_recipe
from orchestrator.sources import Fingerprints

TRACKING_URI = "sqlite:////nowhere/mlflow.db"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def steps_of(model: Path, *overrides: str) -> dict[str, Step]:
    recipe = load_recipe("digits", [f"model={model}", *overrides])
    fingerprints = Fingerprints(model.parent / "fingerprints.json")
    return {s.name: s for s in build_steps(recipe, fingerprints, tracking_uri=TRACKING_URI)}


def test_both_twins_start_from_the_aligned_model_and_learn_from_the_same_batches(
    model: Path,
) -> None:
    steps = steps_of(model)
    dense, mod = steps["finetune-dense"], steps["finetune-mod"]
    assert dense.params == mod.params
    assert dense.inputs["model"] == "align"
    assert mod.inputs["model"] == "convert"
    assert steps["convert"].inputs["model"] == "align"


def test_only_a_method_that_measures_layers_waits_for_arank(model: Path) -> None:
    assert steps_of(model)["convert"].inputs["arank"] == "arank"
    assert "arank" not in steps_of(model, "mod={method: p_mod}")["convert"].inputs


def test_conversion_sees_samples_only_where_they_start_the_routers(model: Path) -> None:
    assert steps_of(model)["convert"].inputs["data"] == "data"
    assert "data" not in steps_of(model, "mod.warm_start=0")["convert"].inputs


def test_hardware_and_addresses_are_settings_and_never_parameters(model: Path) -> None:
    changed = steps_of(
        model, "workers.training=8", "finetune.checkpoint_every=3", "tracking.experiment=other"
    )
    for name, step in steps_of(model).items():
        assert changed[name].params == step.params, name
    assert changed["finetune-mod"].settings["workers"] == 8


def test_guards_change_a_key_only_where_they_differ_from_the_defaults(model: Path) -> None:
    def training(*overrides: str) -> dict[str, object]:
        params: dict[str, object] = steps_of(model, *overrides)["finetune-mod"].params["training"]
        return params

    assert training() == training("finetune.guards.spike=warn")
    assert not {"guards", "checkpoint_every"} & set(training())
    assert "checkpoint_every" not in training("finetune.guards.spike=skip")
    assert training("finetune.guards.spike=rollback")["checkpoint_every"] == 50


def test_grouping_is_part_of_a_key_only_where_it_is_asked_for(model: Path) -> None:
    plain = steps_of(model)["finetune-mod"].params["training"]
    grouped = steps_of(model, "finetune.group_by_length=true")["finetune-mod"].params["training"]
    assert grouped == {**plain, "group_by_length": True}
    assert "group_by_length" not in plain


def test_a_registration_that_needs_approval_is_the_same_registration(model: Path) -> None:
    held, free = (steps_of(model, *more)["register"] for more in (["register.approval=true"], []))
    assert held.gate is not None
    assert free.gate is None
    assert held.params == free.params
    recipes = [load_recipe("digits", more) for more in (["register.approval=true"], [])]
    assert recipes[0].identity() == recipes[1].identity()


def test_a_changed_model_file_changes_the_digest_and_a_touched_one_does_not(model: Path) -> None:
    def digest() -> str:
        base = steps_of(model)["align"].inputs["model"]
        assert isinstance(base, External)
        return base.digest

    before = digest()
    (model / "config.json").touch()
    assert digest() == before
    (model / "config.json").write_text('{"a": 1}')
    assert digest() != before


def test_a_missing_dataset_is_refused_before_anything_starts(model: Path, tmp_path: Path) -> None:
    data = {"source": "llava", "train": "t.json", "evaluation": "e.json", "images": str(tmp_path)}
    with pytest.raises(PreflightError, match=r"t\.json: no such file; expected LLaVA"):
        steps_of(model, f"data={json.dumps(data)}")


def test_what_to_do_about_bad_images_is_part_of_a_key_only_where_it_is_said(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text("{}")
    data = {"source": "llava", "train": str(tmp_path / "t.jsonl"), "images": str(tmp_path)}
    data["evaluation"] = data["train"]
    plain = f"data={json.dumps(data)}"
    lenient = f"data={json.dumps({**data, 'on_bad_image': 'replace'})}"
    assert steps_of(model, plain)["data"].params == {"source": "llava"}
    assert steps_of(model, lenient)["data"].params == {"source": "llava", "on_bad_image": "replace"}
    recipes = [load_recipe("digits", [f"model={model}", each]) for each in (plain, lenient)]
    assert "on_bad_image" not in recipes[0].identity()["data"]
    assert recipes[1].identity()["data"]["on_bad_image"] == "replace"


def test_data_behind_a_url_is_known_by_what_its_service_says_of_it(model: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/recipe/t.json", b"[]")
    memory.pipe_file("/recipe/images/a.png", b"1")
    data = {
        "source": "llava",
        "train": "memory://recipe/t.json",
        "images": "memory://recipe/images",
    }
    data["evaluation"] = data["train"]

    def step() -> Step:
        return steps_of(model, f"data={json.dumps(data)}")["data"]

    before = step()
    assert before.settings["files"]["train"] == "memory://recipe/t.json"
    assert before.settings["images"] == "memory://recipe/images"
    assert step().inputs == before.inputs
    memory.pipe_file("/recipe/images/a.png", b"12")
    assert step().inputs != before.inputs
    memory.rm("/recipe/t.json")
    with pytest.raises(PreflightError, match=r"memory://recipe/t\.json: no such file"):
        step()


def test_a_step_needs_its_inputs_and_theirs_and_no_other(model: Path) -> None:
    steps = tuple(steps_of(model).values())
    assert [s.name for s in needed_for(steps, ["convert"])] == ["data", "align", "arank", "convert"]
    with pytest.raises(PreflightError, match="no step 'fly'; the steps are data, align"):
        needed_for(steps, ["fly"])


def test_planning_a_run_imports_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys; import orchestrator.launch, orchestrator.commands.run; "
        "print(sorted({'torch', 'ray', 'mlflow', 'deepspeed'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_layer_policy_is_part_of_the_measurement_only_if_it_stops_it(model: Path) -> None:
    assert steps_of(model)["arank"].params == {"seed": 0, "samples": 50}
    stopping = steps_of(model, "arank.stop_unchanged=5", "arank.block=image-image")["arank"].params
    assert stopping["options"] == {"block": "image-image"}
    assert stopping["stop"]["unchanged"] == 5
    assert stopping["stop"]["policy"]["policy"] == "fraction"
