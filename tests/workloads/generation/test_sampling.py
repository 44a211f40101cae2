import pytest
import torch

from workloads.generation import Sampling, SamplingError
from workloads.generation.sampling import RowSampler

CPU = torch.device("cpu")
LOGITS = torch.tensor([4.0, 3.0, 2.0, -9.0]).log_softmax(-1)


def drawn(sampling: Sampling, times: int = 200) -> set[int]:
    sampler = RowSampler([sampling], CPU)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    return {int(sampler(ids, LOGITS.clone()[None]).argmax()) for _ in range(times)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1, got 0"),
        ({"temperature": -0.1}, r"temperature: must be in \[0, 2\], got -0.1"),
        ({"temperature": float("nan")}, "temperature: .*got nan"),
        ({"top_p": 0.0}, r"top_p: must be in \(0, 1\], got 0.0"),
        ({"stop": ("a", "")}, "stop: must not be empty"),
    ],
)
def test_a_value_out_of_its_range_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


def test_a_greedy_row_is_left_alone() -> None:
    scores = LOGITS.clone().repeat(2, 1)
    sampler = RowSampler([Sampling(), Sampling(temperature=1.0, seed=0)], CPU)
    after = sampler(torch.zeros(2, 1, dtype=torch.int64), scores)
    assert torch.equal(after[0], LOGITS)
    assert after[1].isfinite().sum() == 1


def test_draws_follow_temperature_and_the_mass_of_the_likeliest() -> None:
    assert drawn(Sampling(temperature=1.0, seed=1)) == {0, 1, 2}
    assert drawn(Sampling(temperature=1.0, top_p=0.7, seed=1)) == {0, 1}
    assert drawn(Sampling(temperature=1.0, top_p=1e-6, seed=1)) == {0}
    assert drawn(Sampling(temperature=0.05, seed=1)) == {0}


def test_shares_of_draws_are_the_probabilities() -> None:
    sampler = RowSampler([Sampling(temperature=1.0, seed=5)], CPU)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[sampler(ids, LOGITS.clone()[None]).argmax()] += 1
    torch.testing.assert_close(counts / 2000, LOGITS.exp(), atol=0.04, rtol=0.0)
