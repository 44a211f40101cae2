import copy

import pytest
import torch
from torch import nn
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.workloads.mod import tiny
from workloads.errors import ConversionError
from workloads.mod import MoDConfig, convert, is_converted, mod_config, revert
from workloads.mod.anatomy import find_anatomy, layer_calls

GAMMA = MoDConfig.gamma(layers=[0, 2], capacity_ratio=0.5)
P_MOD = MoDConfig.p_mod(tiny.NUM_LAYERS)
PRESETS = pytest.mark.parametrize("config", [GAMMA, P_MOD], ids=["gamma", "p_mod"])


def classes(model):
    return [type(module) for module in model.modules()]


@PRESETS
def test_revert_gives_back_the_dense_model(config):
    model = tiny.llava()
    before, before_classes = copy.deepcopy(model.state_dict()), classes(model)
    before_config = model.config.to_dict()

    assert convert(model, config) is model
    assert is_converted(model)
    assert mod_config(model) == config
    assert revert(model) is model

    assert not is_converted(model)
    assert classes(model) == before_classes
    assert model.config.to_dict() == before_config
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@PRESETS
def test_dense_parameters_keep_names_and_values_and_routers_are_added(config):
    model = tiny.llava()
    before = copy.deepcopy(model.state_dict())
    convert(model, config)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    added = sorted(after.keys() - before.keys())
    prefix = "model.language_model."
    if config.shared_router:
        assert added == [f"{prefix}mod_router.weight"]
    else:
        assert added == sorted(
            f"{prefix}layers.{layer}.mod_router.{name}"
            for layer in config.layers
            for name in ("weight", "bias")
        )


def test_an_unshared_router_belongs_to_its_layer():
    model = convert(tiny.llava(), MoDConfig.gamma(layers=[1, 3], shared_router=False))
    routers = [name for name, _ in model.named_parameters() if "mod_router" in name]
    assert routers == [f"model.language_model.layers.{i}.mod_router.weight" for i in (1, 3)]


def test_classes_keep_their_names_and_kinship():
    dense, model = tiny.llava(), convert(tiny.llava(), GAMMA)
    pairs = [
        (model, dense),
        (model.get_decoder(), dense.get_decoder()),
        (model.get_decoder().layers[0], dense.get_decoder().layers[0]),
    ]
    for converted, original in pairs:
        assert isinstance(converted, type(original))
        assert str(type(converted)) == str(type(original))
    assert type(model.get_decoder().layers[1]) is type(dense.get_decoder().layers[1])


def test_a_copy_of_a_converted_model_is_its_own_model():
    model = tiny.randomize_routers(convert(tiny.llava(), GAMMA))
    batch = tiny.batch(tiny.mixed_rows())
    with torch.no_grad():
        before = model(**batch).logits
        twin = copy.deepcopy(model)
        tiny.randomize_routers(twin, scale=5.0, seed=1)
        assert torch.equal(model(**batch).logits, before)
        assert not torch.equal(twin(**batch).logits, before)


def identical_twins(attention):
    config = MoDConfig.p_mod(tiny.NUM_LAYERS, max_ratio=1.0, min_ratio=1.0)
    assert config.layers == tuple(range(tiny.NUM_LAYERS))
    dense = tiny.llava(attention)
    return convert(copy.deepcopy(dense), config), dense


def without_kinds(batch):
    return {name: tensor for name, tensor in batch.items() if name != "token_kinds"}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_p_mod_at_init_with_full_capacity_is_the_dense_model_bit_for_bit(attention, side):
    model, dense = identical_twins(attention)
    batch = tiny.batch(tiny.mixed_rows(answer=3), side=side)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, dense(**without_kinds(batch)).logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_p_mod_at_init_with_full_capacity_generates_the_dense_logits(attention):
    model, dense = identical_twins(attention)
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    arguments = {
        "max_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    generated = model.generate(**batch, **arguments)
    expected = dense.generate(**without_kinds(batch), **arguments)
    assert torch.equal(generated.sequences, expected.sequences)
    assert all(map(torch.equal, generated.logits, expected.logits))


def test_p_mod_at_init_with_full_capacity_has_the_dense_gradients():
    model, dense = identical_twins("sdpa")
    batch = tiny.batch(tiny.mixed_rows(answer=3), labels=True)
    model.train()(**batch).loss.backward()
    dense.train()(**without_kinds(batch)).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wanted = {name: p.grad for name, p in dense.named_parameters() if p.grad is not None}
    assert wanted
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


class TestRefusals:
    @pytest.mark.parametrize(
        ("build", "config", "message"),
        [
            (tiny.llava, MoDConfig.gamma(layers=[1, 4]), r"layers must be in 0\.\.3, got \[4\]"),
            (tiny.llama, P_MOD, "routable is only 'image', but LlamaForCausalLM has no image"),
            (lambda: tiny.llama().model, GAMMA, "LlamaModel is a bare decoder"),
            (lambda: nn.Linear(2, 2), GAMMA, "Linear is not a transformers model"),
            (
                lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32)),
                GAMMA,
                "no .layers",
            ),
            (lambda: tiny.llava("paged|eager"), GAMMA, "attn_implementation must be one of"),
        ],
    )
    def test_what_cannot_be_converted_is_refused_by_name_and_unchanged(
        self, build, config, message
    ):
        model = build()
        before, before_classes = copy.deepcopy(model.state_dict()), classes(model)
        with pytest.raises(ConversionError, match=message):
            convert(model, config)
        assert not is_converted(model)
        assert classes(model) == before_classes
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_a_second_conversion_is_refused_and_the_first_stays(self):
        model = convert(tiny.llava(), GAMMA)
        with pytest.raises(ConversionError, match=r"converted already: revert\(model\) first"):
            convert(model, P_MOD)
        assert mod_config(model) == GAMMA

    def test_a_dense_model_has_nothing_to_revert_or_tell(self):
        for call in (revert, mod_config):
            with pytest.raises(ConversionError, match="LlavaForConditionalGeneration is dense"):
                call(tiny.llava())

    def test_a_model_without_weights_is_refused(self):
        with torch.device("meta"):
            model = tiny.llava()
        with pytest.raises(ConversionError, match="LlamaModel holds no weights"):
            convert(model, GAMMA)


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "head_dim": 8,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("build", "branch"),
    [
        (lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)), "mlp"),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES)), "post_feedforward_layernorm"),
        (lambda: Cohere2ForCausalLM(Cohere2Config(**SIZES)), "mlp"),
        (lambda: GraniteForCausalLM(GraniteConfig(**SIZES, residual_multiplier=0.5)), "mlp"),
    ],
    ids=["llama-shaped", "sandwich-norm", "parallel-residual", "scaled-residual"],
)
def test_the_branch_is_the_last_tensor_before_the_residual_addition(build, branch):
    torch.manual_seed(0)
    decoder = build().get_decoder()
    anatomy = find_anatomy(decoder.layers[1], layer_calls(decoder, [1])[1])
    assert (anatomy.norm, anatomy.branch) == ("input_layernorm", branch)


def test_a_layer_without_an_input_norm_routes_by_its_input_as_it_is():
    torch.manual_seed(0)
    model = convert(Olmo2ForCausalLM(Olmo2Config(**SIZES)), MoDConfig.gamma(layers=[1]))
    anatomy = model.get_decoder().layers[1].mod_slot.anatomy
    assert (anatomy.norm, anatomy.branch) == (None, "post_feedforward_layernorm")


def test_a_layer_that_normalises_what_it_adds_to_the_residual_is_refused_by_name():
    class PostNormLayer(LlamaDecoderLayer):
        def forward(self, hidden_states, attention_mask=None, position_embeddings=None, **kwargs):
            added, _ = self.self_attn(hidden_states, position_embeddings, attention_mask)
            hidden_states = self.input_layernorm(hidden_states + added)
            return self.post_attention_layernorm(hidden_states + self.mlp(hidden_states))

    torch.manual_seed(0)
    model = tiny.llama()
    model.model.layers[0].__class__ = PostNormLayer
    with pytest.raises(ConversionError, match="layer 0: PostNormLayer: no child's output"):
        convert(model, MoDConfig.gamma(layers=[0]))


def test_a_sliding_window_layer_is_refused_by_its_type():
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES))
    with pytest.raises(ConversionError, match="layer 0: it is a sliding_attention layer"):
        convert(model, MoDConfig.gamma(layers=[0]))
