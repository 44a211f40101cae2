from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.recipe_file import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_an_override_changes_one_value_and_no_other() -> None:
    plain, changed = load_recipe("digits"), load_recipe("digits", ["finetune.steps=7"])
    assert changed.finetune.steps == 7
    assert changed.model_copy(update={"finetune": plain.finetune}) == plain


def test_a_whole_section_can_be_overridden() -> None:
    assert load_recipe("digits", ["mod={method: p_mod}"]).mod.method == "p_mod"


def test_exponents_without_a_point_are_numbers() -> None:
    assert load_recipe("digits", ["finetune.learning_rate=2e-5"]).finetune.learning_rate == 2e-5


def test_hardware_and_addresses_are_no_part_of_the_identity() -> None:
    elsewhere = load_recipe("digits", ["workers.training=8", "tracking.uri=http://127.0.0.1:1"])
    assert elsewhere.identity() == load_recipe("digits").identity()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.learning_rat=1", r"finetune\.learning_rat: unknown key; .*'learning_rate'"),
        ("mod.capacity_ratio=2", r"mod\.capacity_ratio: .*less than or equal to 1, got 2"),
        ("seed=a", r"seed: .*valid integer, got 'a'"),
        ("align.steps=1.5", r"align\.steps: .*valid integer, got 1\.5"),
        ("mod.layers.policy=lowest", r"mod\.layers: .*needs the key 'count'"),
        ("data.source=llav", r"data: 'source' must be one of .*'llava', got 'llav'"),
        ("workers.training=3", r"align\.global_batch 32 cannot be shared.*workers\.training 3"),
        ("seed", r"expected key=value"),
        ("seed.deep=1", r"'seed' is a value, not a section"),
    ],
)
def test_a_wrong_override_is_named_with_what_was_expected(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nseeed: 1\n", r"line 2: seeed: unknown key; did you mean 'seed'"),
        ("name: x\nalign:\n  steps: many\n", r"line 3: align\.steps: .*got 'many'"),
        ("name: x\nname: y\n", r"line 2: name: given twice"),
        ("name: [x\n", r"line 2: not valid YAML"),
        ("- 1\n", r"expected keys and values, got list"),
        ("name: x\n", r"model: missing"),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no such recipe; .*digits"):
        load_recipe("digitz")
