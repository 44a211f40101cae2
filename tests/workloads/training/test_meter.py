import pytest
import torch

from tests.workloads.mod import tiny
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert
from workloads.training import Ranks
from workloads.training.flops import StepFlops
from workloads.training.meter import Meter


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_batch() -> dict[str, torch.Tensor]:
    """Two rows of ten positions: 16 tokens, 8 of them of images, and 4 of padding."""
    kinds = torch.full((2, 10), TokenKind.QUESTION)
    kinds[:, :4] = TokenKind.IMAGE
    kinds[1, 6:] = TokenKind.PAD
    return {"token_kinds": kinds}


def test_speed_and_padding_are_those_of_the_time_since_the_last_look(clock: Clock) -> None:
    meter = Meter(Ranks(), None, clock)
    for seconds in (2.0, 4.0):
        meter.saw(a_batch(), None)
        clock.now_s += seconds
        signals = meter.read()
        assert signals["samples_per_s"] == 2 / seconds
        assert signals["tokens_per_s"] == 16 / seconds
        assert signals["padding"] == pytest.approx(0.2)
        assert signals["memory_bytes"] > 1e6


def test_waiting_for_data_is_a_share_of_the_time(clock: Clock) -> None:
    meter = Meter(Ranks(), None, clock)
    with meter.waiting():
        clock.now_s += 1.0
    clock.now_s += 3.0
    assert meter.read()["loader_wait"] == 0.25
    clock.now_s += 1.0
    assert meter.read()["loader_wait"] == 0.0


def test_skips_are_told_by_layer_and_kind(clock: Clock) -> None:
    config = MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5, masked="image-only")
    model = tiny.randomize_routers(convert(tiny.llava(), config)).train()
    batch, record = tiny.batch([tiny.row(answer=2)], labels=True), RoutingRecord()
    model(**batch, routing_record=record)
    meter = Meter(Ranks(), None, clock)
    meter.saw(batch, record)
    clock.now_s += 1.0
    signals = meter.read()
    assert signals["skip/1/image"] == signals["skip/2/image"] == 0.5
    assert signals["skip/1/question"] == 0.0
    assert not [name for name in signals if name.startswith("skip/0")]


def test_utilisation_counts_what_was_computed(clock: Clock) -> None:
    flops = StepFlops(peak_per_s=1000.0, per_image_token=2.0, per_token=5.0, per_layer={})
    meter = Meter(Ranks(), flops, clock)
    meter.saw(a_batch(), None)
    clock.now_s += 0.5
    assert meter.read()["mfu"] == pytest.approx((8 * 2 + 16 * 5) / 0.5 / 1000)


def test_a_share_is_one_of_all_tokens_not_a_mean_of_batches(clock: Clock) -> None:
    config = MoDConfig.gamma(layers=[1], capacity_ratio=0.5, masked="image-only")
    model = tiny.randomize_routers(convert(tiny.llava(), config)).train()
    meter = Meter(Ranks(), None, clock)
    for rows in ([tiny.row(images=3, answer=2)], [tiny.row(images=0, answer=2)]):
        batch, record = tiny.batch(rows, labels=True), RoutingRecord()
        model(**batch, routing_record=record)
        meter.saw(batch, record)
    clock.now_s += 1.0
    image, text = 3 * tiny.IMAGE_FEATURES, 2 * (2 + 5 + 2)
    assert meter.read()["skip/1/all"] == pytest.approx(0.5 * image / (image + text))


def test_a_mask_is_enough_where_kinds_are_not_known(clock: Clock) -> None:
    meter = Meter(Ranks(), None, clock)
    meter.saw({"attention_mask": torch.tensor([[1, 1, 0]])}, None)
    clock.now_s += 1.0
    assert meter.read()["tokens_per_s"] == 2
