from dataclasses import replace

import pytest
import torch

from tests.workloads.mod import tiny
from workloads.errors import ConversionError
from workloads.mod import (
    MoDConfig,
    RoutingRecord,
    calibrate_threshold,
    convert,
    mod_config,
    nominal_skip,
)

CONFIG = MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=[0.7, 0.5, 0.3])


def prompts(seeds):
    return [
        tiny.batch([tiny.row(question=5, seed=4 * seed + i) for i in range(4)], seed=seed)
        for seed in seeds
    ]


def test_measured_skip_matches_nominal_after_calibration():
    model = tiny.randomize_routers(convert(tiny.llava(), CONFIG))
    batches = prompts(range(6))
    mean = calibrate_threshold(model, batches)
    config = mod_config(model)
    assert config.inference == "threshold"
    assert mean == pytest.approx(sum(config.thresholds) / 3)
    assert len(set(config.thresholds)) == 3
    record = RoutingRecord()
    with torch.no_grad():
        for batch in batches:
            model(**batch, routing_record=record)
    nominal, _ = nominal_skip(CONFIG, torch.cat([batch["token_kinds"] for batch in batches]))
    assert record.skip_routable() == pytest.approx(nominal, abs=0.03)
    for layer, capacity in zip(CONFIG.layers, CONFIG.capacities, strict=True):
        assert record.per_layer()[layer]["routable"] == pytest.approx(1 - capacity, abs=0.06)


def test_calibration_is_saved_with_the_model():
    model = tiny.randomize_routers(convert(tiny.llava(), CONFIG))
    calibrate_threshold(model, prompts([0]))
    assert MoDConfig.from_json(model.config.mod) == mod_config(model)


def test_mode_and_weights_are_left_as_they_were():
    model = tiny.randomize_routers(convert(tiny.llava(), CONFIG)).train()
    model.model.vision_tower.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calibrate_threshold(model, prompts([0]))
    assert model.training
    assert not model.model.vision_tower.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_batches_without_routable_tokens_are_refused_and_change_nothing():
    config = replace(CONFIG, routable=("image",))
    model = convert(tiny.llava(), config)
    with pytest.raises(ConversionError, match="layer 0: the calibration batches hold no routable"):
        calibrate_threshold(model, [tiny.batch([tiny.row(images=0)])])
    assert mod_config(model) == config


def test_a_model_that_ranks_needs_no_threshold():
    with pytest.raises(ConversionError, match="needs inference='threshold'"):
        calibrate_threshold(convert(tiny.llava(), MoDConfig.p_mod(tiny.NUM_LAYERS)), [])
