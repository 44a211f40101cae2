from itertools import count
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from workloads.evaluation import EvaluationError, prefill, side_by_side, training_step


def test_twins_alternate_after_two_warm_ups(llama: LlamaForCausalLM) -> None:
    other = LlamaForCausalLM(llama.config)
    turns: list[str] = []
    side_by_side(
        llama, other, lambda model: turns.append("d" if model is llama else "m"), repeats=3
    )
    assert "".join(turns) == "dm" * 5


def test_the_result_is_the_median_of_ratios_not_the_ratio_of_medians(
    llama: LlamaForCausalLM,
) -> None:
    seconds = iter([1.0, 0.5, 10.0, 9.0, 2.0, 1.2])
    readings = (value for step in seconds for value in (0.0, step))
    comparison = side_by_side(
        llama, llama, lambda _: None, warmups=0, repeats=3, clock=lambda: next(readings)
    )
    assert comparison.ratios == (0.5, 0.9, 0.6)
    assert comparison.median_ratio == 0.6
    assert comparison.to_json()["seconds"] == {"dense": [1.0, 10.0, 2.0], "mod": [0.5, 9.0, 1.2]}


def test_a_training_step_leaves_weights_and_gradients_as_they_were(
    llama: LlamaForCausalLM,
) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    ids = torch.arange(3, 13)[None]
    training_step({"input_ids": ids, "labels": ids, "token_kinds": torch.ones_like(ids)})(llama)
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_a_prefill_is_one_forward_without_gradient(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(llama, "forward", lambda **inputs: calls.append(inputs))
    prefill({"input_ids": torch.arange(3, 13)[None]})(llama)
    assert [sorted(call) for call in calls] == [["input_ids", "use_cache"]]
    assert not llama.training


@pytest.mark.parametrize(("warmups", "repeats"), [(0, 0), (-1, 3)])
def test_rejects_measurements_that_measure_nothing(
    llama: LlamaForCausalLM, warmups: int, repeats: int
) -> None:
    with pytest.raises(EvaluationError, match=f"got {repeats}, {warmups}"):
        side_by_side(
            llama, llama, lambda _: None, warmups=warmups, repeats=repeats, clock=count().__next__
        )
