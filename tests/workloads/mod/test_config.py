import json
from dataclasses import replace

import pytest

from workloads.kinds import TokenKind
from workloads.mod import MoDConfig

PRESETS = {
    "gamma": MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5, arank_digest="sha256:1"),
    "p_mod": MoDConfig.p_mod(8),
}


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_survives_json(config):
    assert MoDConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("masked", "routable"),
    [
        ("none", {"SYSTEM", "IMAGE", "QUESTION", "ANSWER"}),
        ("question", {"SYSTEM", "IMAGE", "ANSWER"}),
        ("question+answer", {"SYSTEM", "IMAGE"}),
        ("image-only", {"IMAGE"}),
    ],
)
def test_masked_routing_protects_what_its_name_says(masked, routable):
    config = MoDConfig.gamma(layers=[0], masked=masked)
    assert set(config.routable_kinds(is_training=True)) == {TokenKind[name] for name in routable}


def test_one_capacity_serves_all_layers_and_a_list_one_each():
    assert MoDConfig.gamma(layers=range(1, 4)).capacities == (0.66,) * 3
    assert MoDConfig.gamma(layers=[1, 4], capacity_ratio=[0.5, 1.0]).capacities == (0.5, 1.0)


def test_p_mod_starts_at_the_dense_model():
    config = MoDConfig.p_mod(8)
    assert (config.router_init, config.weight_bias, config.weight_norm) == ("zero", 1.0, "tanh")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "layers must name at least one"),
        ({"layers": (2, 1)}, r"layers must be ascending without repeats, got \[2, 1\]"),
        ({"layers": (1, 1)}, r"layers must be ascending without repeats, got \[1, 1\]"),
        ({"layers": (-1, 1)}, "layers must be indices of 0 or more, got -1"),
        ({"layers": (True, 2)}, "layers must be indices of 0 or more, got True"),
        ({"capacities": (0.5, 0.0)}, r"capacities must be in \(0, 1\], got 0.0 for layer 2"),
        ({"capacities": (0.5, 1.1)}, r"capacities must be in \(0, 1\], got 1.1 for layer 2"),
        ({"capacities": (0.5,)}, "capacities must hold one value for each of the 2 layers, got 1"),
        ({"thresholds": (0.5,)}, "thresholds must hold one value for each of the 2 layers"),
        ({"scorer": "ternary"}, "scorer must be one of 'binary', .* got 'ternary'"),
        ({"positions": "relative"}, "positions must be one of 'original', 'compact'"),
        ({"routable": ("pad",)}, "routable must be a choice of 'system', 'image'"),
        ({"routable": ()}, "routable must be a choice of"),
        ({"inference_routable": ("text",)}, "inference_routable must be a choice of"),
        ({"weight_norm": "tanh"}, "weight_norm 'softmax' and scorer 'binary' go together"),
        ({"aux_weight": -1.0}, "aux_weight must be 0 or more"),
        ({"thresholds": None}, "inference 'threshold' needs scorer 'binary' and thresholds"),
    ],
)
def test_names_the_field_that_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["gamma"], **changes)


def test_rejects_an_unknown_mask_by_naming_the_known_ones():
    with pytest.raises(ValueError, match=r"masked must be one of 'none', 'question'.*got 'all'"):
        MoDConfig.gamma(layers=[0], masked="all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version 2, this version reads 1"),
        ({"schema_version": None}, "schema_version None"),
        ({"capacity": 0.5}, r"unknown MoD fields \['capacity'\]"),
        ({"scorer": "none"}, "scorer must be one of"),
    ],
)
def test_refuses_json_of_another_version_or_shape(changes, message):
    with pytest.raises(ValueError, match=message):
        MoDConfig.from_json(PRESETS["gamma"].to_json() | changes)


def test_refuses_json_with_a_field_missing():
    values = PRESETS["gamma"].to_json()
    del values["layers"]
    with pytest.raises(ValueError, match=r"incomplete.*layers"):
        MoDConfig.from_json(values)
