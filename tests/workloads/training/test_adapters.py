import pytest
import torch

from tests.workloads.training.test_loop import a_config
from tests.workloads.training.tiny import FakeBatches, Listener, NoCheckpoints, tiny_llava
from workloads.mod import MoDConfig, convert
from workloads.training import (
    TorchEngine,
    TrainingConfig,
    TrainingError,
    choose_parts,
    train,
)
from workloads.training.adapters import add_adapters, merge_adapters
from workloads.training.config import Lora

LORA = Lora(rank=2, alpha=4.0)


def converted_llava():
    model = tiny_llava()
    torch.manual_seed(1)  # of the router
    convert(model, MoDConfig.gamma(layers=(1,), capacity_ratio=0.5, masked="image-only"))
    return model


def with_adapters(trainable: tuple[str, ...]):
    model = converted_llava()
    choose_parts(model, trainable)
    add_adapters(model, LORA, seed=3)
    return model


def test_adapters_learn_in_the_place_of_the_decoder_and_other_parts_as_a_whole() -> None:
    model = with_adapters(("projector", "language_model", "router"))
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    decoder = {name for name in learning if "language_model" in name and "mod_router" not in name}
    assert decoder
    assert all(".lora_" in name for name in decoder)
    assert any("mod_router" in name for name in learning)
    assert any("multi_modal_projector" in name for name in learning)
    assert not any("vision_tower" in name for name in learning)
    assert not any("mod_router" in name and "lora" in name for name in learning)


def test_new_adapters_change_nothing_and_are_the_same_for_the_same_seed() -> None:
    batch = FakeBatches().at(0)[0]
    plain, adapted = converted_llava().eval(), with_adapters(("language_model",)).eval()
    with torch.no_grad():
        assert torch.equal(plain(**batch).logits, adapted(**batch).logits)
    again = with_adapters(("language_model",)).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in adapted.state_dict().items())


def test_merged_adapters_compute_what_they_computed_beside_the_weights() -> None:
    config = a_config(trainable=("projector", "language_model", "router"), lora=LORA)
    model = with_adapters(config.trainable)
    engine = TorchEngine(model, config)
    train(engine, FakeBatches(), config, reporter=Listener(), checkpoints=NoCheckpoints())
    batch = FakeBatches().at(9)[0]
    model.eval()
    with torch.no_grad():
        before = model(**batch).logits
        merge_adapters(model)
        after = model(**batch).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == converted_llava().state_dict().keys()


def test_adapters_of_a_frozen_decoder_are_refused() -> None:
    with pytest.raises(TrainingError, match="add language_model to `trainable`"):
        with_adapters(("projector",))


def test_a_config_with_adapters_survives_json() -> None:
    config = TrainingConfig(steps=1, learning_rate=1e-3, trainable=("language_model",), lora=LORA)
    assert TrainingConfig.from_json(config.to_json()) == config


def test_adapters_of_their_usual_size_are_written_as_an_empty_mapping() -> None:
    fields = {"steps": 1, "learning_rate": 1e-3, "trainable": ["language_model"], "lora": {}}
    assert TrainingConfig.from_json(fields).lora == Lora()


@pytest.mark.parametrize(
    ("field", "values"),
    [("rank", {"rank": 0}), ("alpha", {"alpha": 0}), ("dropout", {"dropout": 1})],
)
def test_sizes_out_of_range_are_refused_by_name(field: str, values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"lora\.{field} must be"):
        Lora(**values)
