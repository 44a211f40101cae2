import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workloads.kinds import TokenKind
from workloads.mod import MoDConfig
from workloads.training.router_health import RouterHealth, entropies

CONFIG = MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5)


@dataclass
class Forward:
    """Two routable image tokens, then a question token."""

    bins: Tensor

    @property
    def bin_totals(self) -> Tensor:
        return torch.bincount(self.bins, minlength=2 * len(TokenKind)).double()


def observed(config: MoDConfig, *logits: float) -> RouterHealth:
    image = TokenKind.IMAGE + len(TokenKind)
    forward = Forward(torch.tensor([image, image, TokenKind.QUESTION]))
    health = RouterHealth(config)
    for layer in config.layers:
        routed = torch.tensor([[True, False, True]])
        health.observe(forward, layer, routed, torch.tensor([[*logits, 99.0]]))
    return health


def test_the_mean_is_over_routable_tokens_only() -> None:
    health = observed(CONFIG, 0.0, math.log(3.0))
    assert health.sums() == pytest.approx([0.5 + 0.75, 2.0] * 2)
    assert health.skip_routable() == 0.5
    probability, entropy = entropies(CONFIG, health.sums())[2]
    assert probability == pytest.approx(0.625)
    assert entropy == pytest.approx(0.954434, abs=1e-6)


@pytest.mark.parametrize("logit", [-12.0, 12.0])
def test_a_router_that_says_the_same_of_all_tokens_has_no_entropy(logit: float) -> None:
    _, entropy = entropies(CONFIG, observed(CONFIG, logit, logit).sums())[1]
    assert entropy < 1e-3


def test_a_tanh_router_is_undecided_at_zero_and_sure_where_the_tanh_is_flat() -> None:
    config = MoDConfig.p_mod(num_layers=2, max_ratio=1.0, min_ratio=0.5)
    layer = config.layers[-1]
    assert entropies(config, observed(config, 0.0, 0.0).sums())[layer][0] == 0.5
    sure = entropies(config, observed(config, 3.0, 3.0).sums())[layer][0]
    assert sure == pytest.approx((1 + math.tanh(3.0)) / 2, abs=1e-6)


def test_what_is_not_known_is_left_out() -> None:
    assert entropies(CONFIG, []) == {}
    assert entropies(CONFIG, [0.0, 0.0, math.nan, 2.0]) == {}
    whole = MoDConfig.gamma(layers=[1, 2], capacity_ratio=1.0)
    assert entropies(whole, observed(whole, 5.0, 5.0).sums()) == {}
