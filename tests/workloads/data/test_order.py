from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workloads.data import SampleOrder


def made_lengths(num_samples: int, seed: int = 0) -> NDArray[np.int64]:
    """A third without images; characters from a few to thousands, as in instruction data."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 3, num_samples)
    characters = rng.lognormal(6.0, 1.0, num_samples)
    return np.stack([images, characters.astype(np.int64) + 1], axis=1)


def stream(order: SampleOrder, steps: int) -> list[int]:
    return [index for step in range(steps) for index in order.batch(step)]


@given(
    num_samples=st.integers(1, 40),
    batch=st.integers(1, 50),
    seed=st.integers(0, 3),
    is_grouped=st.booleans(),
)
def test_every_epoch_shows_every_sample_once(
    num_samples: int, batch: int, seed: int, is_grouped: bool
) -> None:
    lengths = made_lengths(num_samples) if is_grouped else None
    order = SampleOrder(num_samples, batch, seed=seed, lengths=lengths)
    seen = stream(order, 3 * num_samples // batch + 1)
    for start in range(0, len(seen) - num_samples + 1, num_samples):
        assert sorted(seen[start : start + num_samples]) == list(range(num_samples))


@pytest.mark.parametrize("lengths", [None, made_lengths(100)], ids=["random", "grouped"])
def test_a_step_depends_on_nothing_before_it(lengths: NDArray[np.int64] | None) -> None:
    def order() -> SampleOrder:
        return SampleOrder(100, 8, seed=1, lengths=lengths)

    undisturbed = order()
    steps = [undisturbed.batch(step) for step in range(60)]
    assert [order().batch(step) for step in (59, 30, 31, 0)] == [
        steps[step] for step in (59, 30, 31, 0)
    ]
    assert undisturbed.batch(30) == steps[30]


@pytest.mark.parametrize("lengths", [None, made_lengths(50)], ids=["random", "grouped"])
def test_epochs_and_seeds_differ_in_order(lengths: NDArray[np.int64] | None) -> None:
    order = SampleOrder(50, 10, seed=0, lengths=lengths)
    first, second = stream(order, 5), [order.sample(position) for position in range(50, 100)]
    assert first != second
    assert stream(SampleOrder(50, 10, seed=1, lengths=lengths), 5) not in (first, second)


def test_the_batch_size_does_not_change_a_random_stream() -> None:
    assert stream(SampleOrder(20, 8, seed=5), 3) == stream(SampleOrder(20, 4, seed=5), 6)


def test_grouped_batches_have_either_images_or_none() -> None:
    lengths = made_lengths(1000)
    order = SampleOrder(1000, 16, seed=0, lengths=lengths)
    for epoch in range(3):
        steps = range(epoch * 1000 // 16, (epoch + 1) * 1000 // 16)
        kinds = [set(lengths[order.batch(step), 0] > 0) for step in steps]
        assert sum(len(kind) > 1 for kind in kinds) <= 2


def padding(batches: Sequence[list[int]], lengths: NDArray[np.int64], micro_batch: int) -> float:
    """Share of the characters' places that hold none."""
    real = padded = 0
    for batch in batches:
        for start in range(0, len(batch), micro_batch):
            characters = lengths[batch[start : start + micro_batch], 1]
            real += characters.sum()
            padded += characters.max() * len(characters)
    return float(1 - real / padded)


def test_grouping_bounds_what_is_padding() -> None:
    lengths = made_lengths(20_000)
    shares = [
        padding([order.batch(step) for step in range(20_000 // 32)], lengths, micro_batch=8)
        for order in (
            SampleOrder(20_000, 32, seed=0),
            SampleOrder(20_000, 32, seed=0, lengths=lengths),
        )
    ]
    assert shares[0] > 0.5
    assert shares[1] < 0.1


def test_grouping_leaves_batches_in_random_order() -> None:
    lengths = made_lengths(4000)
    order = SampleOrder(4000, 20, seed=0, lengths=lengths)
    means = [lengths[order.batch(step), 1].mean() for step in range(200)]
    rises = np.diff(means) > 0
    assert 0.35 < rises.mean() < 0.65


@pytest.mark.parametrize(("samples", "batch"), [(0, 1), (1, 0)])
def test_refuses_sizes_that_make_no_batch(samples: int, batch: int) -> None:
    with pytest.raises(ValueError, match=f"got {samples} and {batch}"):
        SampleOrder(samples, batch, seed=0)


def test_refuses_a_step_before_the_first() -> None:
    with pytest.raises(ValueError, match="step >= 0, got -1"):
        SampleOrder(1, 1, seed=0).batch(-1)
