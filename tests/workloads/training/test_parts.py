import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as QwenVL

from tests.workloads.training.tiny import tiny_llava
from workloads.training import (
    TrainingConfig,
    TrainingError,
    choose_parts,
    named_parts,
    parameter_groups,
)


def tiny_qwen() -> QwenVL:
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return QwenVL(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def test_every_weight_of_a_llava_has_its_part() -> None:
    parts = {name: part for name, _, part in named_parts(tiny_llava())}
    assert parts["model.multi_modal_projector.linear_1.weight"] == "projector"
    assert parts["model.language_model.embed_tokens.weight"] == "language_model"
    assert parts["lm_head.weight"] == "language_model"
    towers = {part for name, part in parts.items() if "vision_tower" in name}
    assert towers == {"vision_tower"}


def test_a_merger_inside_the_tower_is_the_projector() -> None:
    parts = {name: part for name, _, part in named_parts(tiny_qwen())}
    assert {part for name, part in parts.items() if ".merger." in name} == {"projector"}
    assert {part for name, part in parts.items() if ".visual.blocks." in name} == {"vision_tower"}
    assert parts["lm_head.weight"] == "language_model"


def test_a_text_model_is_all_language_model() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    assert {part for _, _, part in named_parts(LlamaForCausalLM(config))} == {"language_model"}


def test_a_router_is_a_part_of_its_own() -> None:
    model = tiny_llava()
    decoder = model.get_decoder()
    decoder.mod_router = type(model.lm_head)(16, 2)
    parts = {name: part for name, _, part in named_parts(model)}
    assert parts["model.language_model.mod_router.weight"] == "router"


def test_only_chosen_parts_learn() -> None:
    model = tiny_llava()
    choose_parts(model, ("projector", "router"))
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert learning
    assert all("multi_modal_projector" in name for name in learning)


def test_a_part_that_the_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="LlavaForConditionalGeneration has no router to train"):
        choose_parts(tiny_llava(), ("router",))


def test_vectors_are_not_decayed_and_routers_have_their_own_rate() -> None:
    model = tiny_llava()
    model.get_decoder().mod_router = type(model.lm_head)(16, 2)
    config = TrainingConfig(
        steps=1,
        learning_rate=1e-3,
        router_learning_rate=1e-2,
        weight_decay=0.1,
        trainable=("language_model", "router"),
    )
    choose_parts(model, config.trainable)
    groups = parameter_groups(model, config)
    kinds = {(group["base_lr"], group["weight_decay"]) for group in groups}
    assert kinds == {(1e-3, 0.1), (1e-3, 0.0), (1e-2, 0.1), (1e-2, 0.0)}
    for group in groups:
        assert all((weight.ndim > 1) == (group["weight_decay"] > 0) for weight in group["params"])
