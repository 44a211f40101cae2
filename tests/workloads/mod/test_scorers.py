from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import nn

from tests.workloads.mod import tiny
from workloads.errors import ConversionError
from workloads.mod import (
    MoDConfig,
    RoutingRecord,
    config_checks,
    convert,
    scorers,
    warm_start_routers,
)

RANDOM = MoDConfig.random(layers=[1, 2], capacity_ratio=0.5)


class LastFeature(nn.Module):
    """A scorer of another package: the last feature says it all."""

    def __init__(self, hidden_size, config):
        super().__init__()

    def forward(self, features):
        return features[..., -1].float()


@pytest.fixture
def brought(monkeypatch):
    def bring(value):
        entry = EntryPoint("theirs", value, config_checks.SCORER_GROUP)
        for module in (config_checks, scorers):
            monkeypatch.setattr(
                module, "entry_points", lambda **select: EntryPoints([entry]).select(**select)
            )
        return replace(RANDOM, scorer="theirs")

    return bring


def skipped(model, **batch):
    record = RoutingRecord(keep_masks=True)
    with torch.no_grad():
        model(**batch, routing_record=record, use_cache=False)
    return record


def test_the_random_baseline_skips_its_share_and_other_tokens_each_time():
    model = convert(tiny.llava(), RANDOM)
    batch = tiny.batch([tiny.row(), tiny.row(seed=1)])
    first, second = skipped(model, **batch), skipped(model, **batch)
    assert first.skip_routable() == second.skip_routable() == 0.5
    assert not torch.equal(first.masks[1][0], second.masks[1][0])


def test_the_random_baseline_reweights_nothing_and_has_no_weights():
    dense = tiny.llava()
    batch = tiny.batch([tiny.row()])
    with torch.no_grad():
        expected = dense(**{k: v for k, v in batch.items() if k != "token_kinds"}).logits
        model = convert(dense, replace(RANDOM, capacities=(1.0, 1.0)))
        assert torch.equal(model(**batch).logits, expected)
    assert not [name for name, _ in model.named_parameters() if "mod_router" in name]


def test_a_scorer_of_another_package_ranks_the_tokens(brought):
    config = brought("tests.workloads.mod.test_scorers:LastFeature")
    model = convert(tiny.llava(), config)
    record = skipped(model, **tiny.batch([tiny.row()]))
    assert record.skip_routable() == 0.5
    assert MoDConfig.from_json(config.to_json()) == config


def test_an_entry_point_that_is_no_module_class_is_refused_by_name(brought):
    config = brought("math:pi")
    model = tiny.llava()
    with pytest.raises(ConversionError, match="scorer 'theirs' must be a torch module class"):
        convert(model, config)
    assert "mod_router" not in str(model)


def test_a_name_that_nobody_brings_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'binary', 'scalar', 'random'.*got 'theirs'"):
        replace(RANDOM, scorer="theirs")


def test_only_linear_scorers_can_be_started_from_samples():
    with pytest.raises(ConversionError, match="the scorer is 'random'"):
        warm_start_routers(convert(tiny.llava(), RANDOM), [])


def test_scores_that_are_not_finite_stop_the_forward():
    model = tiny.randomize_routers(convert(tiny.llava(), MoDConfig.gamma(layers=[2])))
    with torch.no_grad():
        model.get_decoder().mod_router.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="router scores of layer 2 are NaN"):
        skipped(model, **tiny.batch([tiny.row()]))
