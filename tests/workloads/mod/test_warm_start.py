from dataclasses import replace

import pytest
import torch

from tests.workloads.mod import tiny
from workloads.errors import ConversionError
from workloads.mod import MoDConfig, convert, mod_config, warm_start_routers
from workloads.mod.convert import set_config

GAMMA = MoDConfig.gamma(layers=[1, 2, 3], capacity_ratio=0.5, masked="image-only", aux_weight=0.0)


def batches(seeds=range(4)):
    return [
        tiny.batch(
            [tiny.row(answer=4, seed=4 * seed + i) for i in range(4)], labels=True, seed=seed
        )
        for seed in seeds
    ]


def loss_of(model, batch, config):
    set_config(model, config)
    with torch.no_grad():
        return float(model(**batch, use_cache=False).loss)


def flip_routers(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mod_router" in name:
                parameter.neg_()


@pytest.mark.parametrize("shared", [True, False])
def test_skipping_what_the_router_learned_to_skip_hurts_less_than_the_opposite(shared):
    config = replace(GAMMA, shared_router=shared)
    model = convert(tiny.llava(), config)
    agreement = warm_start_routers(model, batches())
    assert 0.55 < agreement <= 1.0
    (held_out,) = batches([9])
    whole = replace(config, inference="topk", weight_scale=0.0, weight_bias=1.0)
    dense = loss_of(model, held_out, replace(whole, capacities=(1.0,) * 3))
    harm = abs(loss_of(model, held_out, whole) - dense)
    flip_routers(model)
    assert harm < abs(loss_of(model, held_out, whole) - dense)


def test_only_routers_change():
    model = convert(tiny.llava(), GAMMA).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    warm_start_routers(model, batches([0]))
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(before[n], tensor)}
    assert changed == {"model.language_model.mod_router.weight"}
    assert model.training
    assert mod_config(model) == GAMMA
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_router_with_one_logit_and_a_bias_is_fitted_too():
    config = MoDConfig.p_mod(tiny.NUM_LAYERS)
    model = convert(tiny.llava(), config)
    warm_start_routers(model, batches([0]))
    first = model.get_decoder().layers[config.layers[0]].mod_router
    assert first.weight.abs().sum() > 0
    assert first.bias.abs().sum() > 0


def test_a_second_start_from_the_same_batches_is_the_same():
    weights = []
    for seed in (0, 1):
        model = tiny.llava()
        torch.manual_seed(seed)
        warm_start_routers(convert(model, GAMMA), batches([0]))
        weights.append(model.get_decoder().mod_router.weight)
    assert torch.equal(*weights)


def test_batches_that_cannot_show_anything_are_refused():
    model = convert(tiny.llava(), GAMMA)
    (batch,) = batches([0])
    with pytest.raises(ConversionError, match="labels and token_kinds"):
        warm_start_routers(model, [{k: v for k, v in batch.items() if k != "labels"}])
    text = tiny.batch([tiny.row(images=0, answer=2)], labels=True)
    with pytest.raises(ConversionError, match="no routable token"):
        warm_start_routers(model, [text])
    assert mod_config(model) == GAMMA
