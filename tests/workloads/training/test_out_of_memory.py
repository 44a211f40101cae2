import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from tests.workloads.training.test_loop import a_config
from tests.workloads.training.tiny import FakeBatches, Listener, NoCheckpoints, tiny_llava
from workloads.training import (
    Ranks,
    TorchEngine,
    TrainingError,
    choose_parts,
    out_of_memory,
    train,
)
from workloads.training.config import Lora
from workloads.training.out_of_memory import advice_on_memory

GIB = 2**30


class Full(TorchEngine):
    """A device without room for a third step."""

    error: Exception = torch.OutOfMemoryError("CUDA out of memory")
    forwards = 0

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        self.forwards += 1
        if self.forwards > 4:
            raise self.error
        return super().forward(inputs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
def test_a_training_without_memory_ends_with_the_step_and_what_to_turn(error: Exception) -> None:
    config = a_config()
    model = tiny_llava()
    choose_parts(model, config.trainable)
    engine = Full(model, config)
    engine.error = error
    with pytest.raises(TrainingError, match=r"step 3: out of memory at .*`micro_batch: 2`"):
        train(engine, FakeBatches(), config, reporter=Listener(), checkpoints=NoCheckpoints())


def test_an_error_that_is_none_of_memory_stays_what_it_is() -> None:
    config = a_config()
    model = tiny_llava()
    choose_parts(model, config.trainable)
    engine = Full(model, config)
    engine.error = RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(engine, FakeBatches(), config, reporter=Listener(), checkpoints=NoCheckpoints())


def fail(advice: AbstractContextManager[None]) -> None:
    with advice:
        raise MemoryError


def knobs(*, can_shard: bool = True, step: int | None = 1, **changes: Any) -> dict[str, float]:
    """Knob to the estimated GiB, in the order told, of 100 million learning weights on 4 ranks."""
    model = tiny_llava()
    model.requires_grad_(False)
    model.lm_head.weight = torch.nn.Parameter(torch.empty(10**8, device="meta"))
    advice = advice_on_memory(
        model, a_config(**changes), Ranks(size=4), can_shard=can_shard, step=step
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out_of_memory, "peak_memory", lambda _: 8 * GIB)
        with pytest.raises(TrainingError) as raised:
            fail(advice)
    found = re.findall(r"`(.+?)` \(about (\S+) GiB\)", str(raised.value))
    return {name: float(size) for name, size in found}


def test_sharding_frees_what_other_ranks_hold() -> None:
    found = knobs(zero_stage=0, global_batch=16)
    assert found["zero_stage: 1"] == pytest.approx(8e8 * 0.75 / GIB, rel=0.01)
    assert found["zero_stage: 3"] == pytest.approx(16e8 * 0.75 / GIB, rel=0.01)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_adapters_free_what_the_language_model_needs_to_learn() -> None:
    assert knobs(zero_stage=2, global_batch=4)["lora: {}"] == pytest.approx(3e8 / GIB, rel=0.01)
    assert "lora: {}" not in knobs(trainable=("projector",))


def test_a_smaller_micro_batch_divides_the_samples_of_a_rank() -> None:
    found = knobs(global_batch=36, micro_batch=9)
    assert [name for name in found if name.startswith("micro")] == ["micro_batch: 3"]


def test_outside_of_a_step_there_are_no_activations_to_save() -> None:
    found = knobs(step=None, zero_stage=2, global_batch=16)
    assert set(found) == {"lora: {}", "zero_stage: 3"}


def test_plain_torch_is_not_told_to_shard() -> None:
    assert not any("zero" in name or "offload" in name for name in knobs(can_shard=False))


def test_what_is_set_already_is_not_advised() -> None:
    found = knobs(
        zero_stage=3, global_batch=4, gradient_checkpointing=True, lora=Lora(), precision="bf16"
    )
    assert found == {}
