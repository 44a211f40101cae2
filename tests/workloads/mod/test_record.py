from types import SimpleNamespace

import pytest
import torch

from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, nominal_skip
from workloads.mod.record import count_bins

Q, A, IMG, PAD = TokenKind.QUESTION, TokenKind.ANSWER, TokenKind.IMAGE, TokenKind.PAD
KINDS = torch.tensor([[IMG, IMG, IMG, IMG, Q, A], [IMG, IMG, Q, A, PAD, PAD]])


def forward(kinds=KINDS, routable=(IMG,)):
    is_routable = torch.isin(kinds, torch.tensor(routable))
    bins = (kinds + len(TokenKind) * is_routable).view(-1)
    return SimpleNamespace(bins=bins, bin_totals=count_bins(bins, torch.ones_like(bins)))


def routed(*skipped):
    mask = KINDS != PAD
    for cell in skipped:
        mask[cell] = False
    return mask


def test_shares_are_of_real_tokens_by_kind():
    record = RoutingRecord()
    record.observe(forward(), 3, routed((0, 0), (0, 1), (1, 0)), None)
    shares = record.per_layer()[3]
    assert shares == {
        "all": pytest.approx(3 / 10),
        "routable": pytest.approx(3 / 6),
        "image": pytest.approx(3 / 6),
        "question": 0.0,
        "answer": 0.0,
    }


def test_forwards_add_up_and_layers_average():
    record = RoutingRecord()
    for _ in range(2):
        record.observe(forward(), 1, routed((0, 0)), None)
        record.observe(forward(), 2, routed((0, 0), (0, 1), (0, 2)), None)
    assert record.skip_routable() == pytest.approx((1 / 6 + 3 / 6) / 2)
    assert record.skip_all() == pytest.approx((1 / 10 + 3 / 10) / 2)


def test_masks_are_kept_on_demand():
    mask = routed((0, 0))
    kept, lean = RoutingRecord(keep_masks=True), RoutingRecord()
    for record in (kept, lean):
        record.observe(forward(), 1, mask, None)
    assert torch.equal(kept.masks[1][0], mask)
    assert lean.masks == {}


def test_an_empty_record_says_nothing_was_skipped():
    assert (RoutingRecord().skip_all(), RoutingRecord().per_layer()) == (0.0, {})


def test_nominal_skip_counts_each_row_by_itself():
    config = MoDConfig.p_mod(2, max_ratio=0.5, min_ratio=0.5)
    assert config.capacities == (0.5,)
    assert nominal_skip(config, KINDS) == (3 / 6, 3 / 10)
    assert nominal_skip(config, KINDS[:, 4:]) == (0.0, 0.0)
