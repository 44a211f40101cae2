"""Training of a Mixture-of-Depths model: its router learns, its skips are measured."""

from typing import Any

import pytest
import torch

from tests.workloads.training.tiny import FakeBatches, Listener, NoCheckpoints, tiny_llava
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert
from workloads.training import TorchEngine, TrainingConfig, choose_parts, train


class KindBatches(FakeBatches):
    """Batches whose image tokens may be skipped."""

    def at(self, step: int) -> list[dict[str, Any]]:
        batches = super().at(step)
        for batch in batches:
            kinds = torch.full_like(batch["input_ids"], TokenKind.QUESTION)
            kinds[batch["labels"] >= 0] = TokenKind.ANSWER
            kinds[batch["input_ids"] == 3] = TokenKind.IMAGE
            kinds[batch["attention_mask"] == 0] = TokenKind.PAD
            batch["token_kinds"] = kinds
        return batches


@pytest.mark.parametrize("only_text_on", [None, 0])
def test_routers_learn_and_skips_are_in_the_history(only_text_on: int | None) -> None:
    torch.manual_seed(0)
    model = convert(tiny_llava(), MoDConfig.gamma(layers=[1], capacity_ratio=0.5))
    config = TrainingConfig(
        steps=3,
        learning_rate=1e-3,
        router_learning_rate=1e-2,
        trainable=("router",),
        global_batch=4,
    )
    choose_parts(model, config.trainable)
    router = model.get_decoder().mod_router
    before = [weight.clone() for weight in router.parameters()]
    result = train(
        TorchEngine(model, config),
        KindBatches(only_text_on=only_text_on),
        config,
        reporter=Listener(),
        checkpoints=NoCheckpoints(),
    )
    assert not any(map(torch.equal, before, router.parameters()))
    last = result.history[-1]
    assert last["loss"] > last["lm_loss"] > 0
    assert last["router_loss"] > 0
    assert 0 < last["skip_all"] < last["skip_routable"] <= 0.5


def test_routers_without_a_loss_of_their_own_learn_from_the_language_model() -> None:
    torch.manual_seed(0)
    model = convert(tiny_llava(), MoDConfig.p_mod(num_layers=2, max_ratio=1.0, min_ratio=0.5))
    config = TrainingConfig(steps=3, learning_rate=1e-2, trainable=("router",), global_batch=4)
    choose_parts(model, config.trainable)
    result = train(
        TorchEngine(model, config),
        KindBatches(),
        config,
        reporter=Listener(),
        checkpoints=NoCheckpoints(),
    )
    last = result.history[-1]
    assert last["loss"] == last["lm_loss"] > 0
    assert "router_loss" not in last
    assert 0 < last["skip_all"] < last["skip_routable"] <= 0.5
    routers = [p for name, p in model.named_parameters() if "mod_router" in name]
    assert any(weight.abs().sum() > 0 for weight in routers)
