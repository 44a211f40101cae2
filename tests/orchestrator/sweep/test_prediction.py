import pytest

from orchestrator.recipe_file import load_recipe
from orchestrator.sweep.prediction import predict, prompt_of
from workloads.evaluation import DecoderShape, decoder_flops
from workloads.kinds import TokenKind

SHAPE = DecoderShape(
    layers=8, hidden=64, intermediate=128, query_width=64, key_width=64, value_bytes=2
)
PROMPTS = [{"SYSTEM": 4, "IMAGE": 100, "QUESTION": 20}]


def predicted(*overrides: str) -> dict[str, float]:
    found = predict(load_recipe("digits", overrides), SHAPE, PROMPTS)
    assert found is not None
    return found


def test_the_share_is_that_of_the_closed_form() -> None:
    found = predicted("mod.capacity_ratio=0.5", "mod.layers.fraction=0.5")
    kept = [124] * 4 + [74] * 4
    dense = decoder_flops([124] * 8, SHAPE)
    assert found["tflops"] == pytest.approx(decoder_flops(kept, SHAPE) / dense)
    assert found["kv"] == pytest.approx(sum(kept) / (8 * 124))


@pytest.mark.parametrize(
    ("policy", "layers"),
    [
        ("{policy: all}", 7),
        ("{policy: lowest, count: 3}", 3),
        ("{policy: explicit, layers: [1, 2]}", 2),
        ("{policy: random, fraction: 0.5}", 4),
    ],
)
def test_policies_that_need_no_ranks_tell_how_many_layers_they_convert(
    policy: str, layers: int
) -> None:
    found = predicted("mod.capacity_ratio=0.5", f"mod.layers={policy}")
    assert found["kv"] == pytest.approx(1 - layers * 50 / (8 * 124))


@pytest.mark.parametrize("policy", ["{policy: threshold, threshold: 10}", "{policy: knee}"])
def test_policies_that_read_ranks_leave_it_to_the_measurement(policy: str) -> None:
    recipe = load_recipe("digits", [f"mod.layers={policy}"])
    assert predict(recipe, SHAPE, PROMPTS) is None


def test_the_ratio_decay_of_p_mod_is_known() -> None:
    more, less = (
        predicted("mod={method: p_mod}", f"mod.mean_retention={mean}") for mean in (0.7, 0.4)
    )
    assert 0 < less["tflops"] < more["tflops"] < 1


def test_padding_is_not_counted() -> None:
    kinds = [TokenKind.PAD, TokenKind.SYSTEM, TokenKind.IMAGE, TokenKind.IMAGE]
    assert prompt_of([int(kind) for kind in kinds]) == {"IMAGE": 2, "SYSTEM": 1}
