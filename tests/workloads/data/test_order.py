import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.data import batch_indices


@given(num_samples=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 3))
def test_every_epoch_shows_every_sample_once(num_samples: int, batch: int, seed: int) -> None:
    steps = 3 * num_samples // batch + 1
    stream = [
        index
        for step in range(steps)
        for index in batch_indices(num_samples, batch, seed=seed, step=step)
    ]
    for start in range(0, len(stream) - num_samples + 1, num_samples):
        assert sorted(stream[start : start + num_samples]) == list(range(num_samples))


def test_a_step_depends_on_nothing_before_it() -> None:
    late = batch_indices(100, 8, seed=1, step=30)
    for step in range(30):
        batch_indices(100, 8, seed=1, step=step)
    assert batch_indices(100, 8, seed=1, step=30) == late


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = (batch_indices(50, 50, seed=0, step=step) for step in (0, 1))
    assert first != second
    assert batch_indices(50, 50, seed=1, step=0) not in (first, second)


def test_the_batch_size_does_not_change_the_stream() -> None:
    wide = [index for step in range(3) for index in batch_indices(20, 8, seed=5, step=step)]
    narrow = [index for step in range(6) for index in batch_indices(20, 4, seed=5, step=step)]
    assert wide == narrow


@pytest.mark.parametrize(("samples", "batch", "step"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_refuses_sizes_that_make_no_batch(samples: int, batch: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"got {samples}, {batch} and {step}"):
        batch_indices(samples, batch, seed=0, step=step)
