from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from orchestrator.durable import open_store
from tests.workloads.training.tiny import (
    FakeBatches,
    Listener,
    PromptCheckpoints,
    collate,
    sample,
    tiny_llava,
)
from workloads.mod import MoDConfig, convert, mod_config
from workloads.training import (
    Engine,
    Guards,
    Ranks,
    TorchEngine,
    TrainingConfig,
    TrainingError,
    TrainingResult,
    Validation,
    Validator,
    choose_parts,
    train,
)
from workloads.training.micro_batch import count_targets
from workloads.training.validation import is_degenerate, repeated_share

SETTINGS = GenerationConfig(
    do_sample=False, max_new_tokens=16, min_new_tokens=16, pad_token_id=0, eos_token_id=1
)


class Scripted(Validator):
    """Says what the test wants instead of measuring."""

    __slots__ = ("asked", "losses", "shares")

    def __init__(self, losses: Sequence[float], shares: Sequence[float] = (), **plan: Any) -> None:
        super().__init__(FakeBatches(), Validation(**{"every": 2, **plan}), None, SETTINGS)
        object.__setattr__(self, "losses", iter(losses))
        object.__setattr__(self, "shares", iter(shares))

    def loss(self, engine: Engine) -> float:
        return next(self.losses)

    def degenerate_share(self, engine: Engine) -> float | None:
        return next(self.shares, None)


def a_config(**changes: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "steps": 8, "learning_rate": 3e-3, "trainable": ("projector", "language_model"),
        "global_batch": 4, "checkpoint_every": 3, "validation": Validation(every=2),
    }  # fmt: skip
    return TrainingConfig(**{**defaults, **changes})


def train_tiny(
    config: TrainingConfig,
    validator: Validator | None,
    store: Path,
    listener: Listener | None = None,
    batches: FakeBatches | None = None,
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    model = tiny_llava()
    choose_parts(model, config.trainable)
    engine = TorchEngine(model, config)
    listener = listener or Listener()
    result = train(
        engine,
        batches or FakeBatches(),
        config,
        reporter=listener,
        checkpoints=checkpoints_in(store, listener),
        validator=validator,
        report_every=100,
    )
    weights = engine.full_weights()
    assert weights is not None
    return weights, result


def checkpoints_in(store: Path, listener: Listener) -> PromptCheckpoints:
    return PromptCheckpoints(
        objects=open_store(str(store)),
        prefix="training",
        writer="first",
        ranks=Ranks(),
        warn=listener.message,
    )


def kept_steps(store: Path) -> list[int]:
    return sorted(int(file.parent.name[:9]) for file in store.rglob("manifest.json"))


def a_validator(**plan: Any) -> Validator:
    prompts = collate([sample(number, answers=0) for number in range(90, 94)])
    del prompts["labels"], prompts["token_kinds"]
    return Validator(FakeBatches(), Validation(every=2, **plan), prompts, SETTINGS)


def test_the_loss_is_the_mean_over_all_held_out_answer_tokens() -> None:
    model = tiny_llava().eval()
    total, targets = 0.0, 0
    for step in range(2):
        for batch in FakeBatches().at(step):
            inputs = {name: value for name, value in batch.items() if name != "token_kinds"}
            with torch.no_grad():
                total += float(model(**inputs).loss) * count_targets(batch)
            targets += count_targets(batch)
    engine = TorchEngine(tiny_llava(), a_config())
    assert a_validator().loss(engine) == pytest.approx(total / targets, rel=1e-6)
    assert engine.model.training


def test_a_converted_model_is_measured_as_it_is_trained_and_keeps_its_rule() -> None:
    model = tiny_llava()
    convert(model, MoDConfig.gamma(layers=[1], capacity_ratio=0.5))
    engine, before = TorchEngine(model, a_config()), mod_config(model)
    validator = a_validator()
    assert validator.loss(engine) > 0
    assert validator.degenerate_share(engine) is not None
    assert mod_config(model) == before


def test_the_share_of_degenerate_answers_is_what_the_model_really_says() -> None:
    engine, validator = TorchEngine(tiny_llava(), a_config()), a_validator()
    model = engine.model.eval()
    assert validator.prompts is not None
    said = model.generate(**validator.prompts, generation_config=SETTINGS)
    answers = said[:, validator.prompts["input_ids"].shape[1] :].tolist()
    expected = sum(is_degenerate([token for token in each if token > 1]) for each in answers) / 4
    assert validator.degenerate_share(engine) == expected


@pytest.mark.parametrize(
    ("answer", "says_nothing"),
    [
        ([], True),
        ([7], False),
        ([7] * 11, False),
        ([7] * 12, True),
        ([7, 8, 9] * 8, True),
        (list(range(20)), False),
        ([*range(12), *range(6)], False),
    ],
)
def test_an_answer_is_degenerate_if_it_is_empty_or_mostly_repeats_itself(
    answer: list[int], says_nothing: bool
) -> None:
    assert is_degenerate(answer) == says_nothing


def test_repetition_is_the_share_of_trigrams_seen_before() -> None:
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repeated_share([1, 2]) == 0.0


def test_measurements_stand_in_the_history_and_are_reported_once(tmp_path: Path) -> None:
    listener = Listener()
    validator = Scripted(losses=[3.0, 2.0, 1.0, 0.5], shares=[0.0, 0.1, 0.2, 0.3])
    _, result = train_tiny(a_config(), validator, tmp_path, listener)
    measured = {
        int(p["step"]): p["validation_loss"] for p in result.history if "validation_loss" in p
    }
    assert measured == {2: 3.0, 4: 2.0, 6: 1.0, 8: 0.5}
    assert {step: point["validation_loss"] for step, point in listener.points.items()} == measured
    assert result.history[3]["degenerate_answers"] == 0.1


def test_it_is_measured_after_the_last_step_too(tmp_path: Path) -> None:
    validator = Scripted(losses=[3.0, 2.0], every=5)
    _, result = train_tiny(a_config(validation=validator.plan), validator, tmp_path)
    assert [p["step"] for p in result.history if "validation_loss" in p] == [5, 8]


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    train_tiny(a_config(steps=12), Scripted(losses=[3.0, 1.0, 2.0, 2.0, 2.0, 2.0]), tmp_path)
    assert kept_steps(tmp_path) == [4, 6, 9]


def test_without_a_best_only_the_newest_are_kept(tmp_path: Path) -> None:
    validator = Scripted(losses=[3.0, 1.0, 2.0, 2.0], best="off")
    train_tiny(a_config(validation=validator.plan), validator, tmp_path)
    assert kept_steps(tmp_path) == [3, 6]


def test_the_weights_of_the_best_state_are_the_result_where_that_is_wanted(tmp_path: Path) -> None:
    until_four, _ = train_tiny(
        a_config(steps=4, schedule="constant", validation=None), None, tmp_path / "short"
    )
    plan = Validation(every=2, best="use")
    validator, listener = Scripted(losses=[3.0, 1.0, 2.0, 2.0], best="use"), Listener()
    weights, result = train_tiny(
        a_config(schedule="constant", validation=plan), validator, tmp_path / "long", listener
    )
    assert all(torch.equal(weights[name], until_four[name]) for name in weights)
    assert len(result.history) == 8
    assert any("weights of step 4" in message for message in listener.messages)


def test_a_last_state_that_is_best_is_used_as_it_is(tmp_path: Path) -> None:
    plan = Validation(every=2, best="use")
    whole, _ = train_tiny(a_config(validation=None), None, tmp_path / "plain")
    validator = Scripted(losses=[3.0, 2.0, 1.0, 0.5], best="use")
    weights, _ = train_tiny(a_config(validation=plan), validator, tmp_path / "best")
    assert all(torch.equal(weights[name], whole[name]) for name in weights)


def test_measuring_changes_no_weight(tmp_path: Path) -> None:
    plain, _ = train_tiny(a_config(validation=None), None, tmp_path / "plain")
    measured, _ = train_tiny(a_config(), a_validator(best="off"), tmp_path / "measured")
    assert all(torch.equal(plain[name], measured[name]) for name in plain)


class DyingOnce(FakeBatches):
    def at(self, step: int) -> list[dict[str, torch.Tensor]]:
        if step == 5:
            raise InterruptedError
        return super().at(step)


def test_a_training_that_was_killed_remembers_its_best_state(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        train_tiny(a_config(), Scripted([1.0, 2.0]), tmp_path, batches=DyingOnce())
    # The checkpoint of step 3 knows of the measurement before it.
    _, result = train_tiny(a_config(), Scripted([2.0, 3.0, 3.0]), tmp_path)
    assert result.resumed_at == 3
    assert kept_steps(tmp_path) == [2, 3, 6]


def test_a_turn_to_degenerate_answers_is_told_once(tmp_path: Path) -> None:
    listener = Listener()
    validator = Scripted(losses=[1.0] * 4, shares=[0.1, 0.9, 0.8, 0.2])
    _, result = train_tiny(a_config(), validator, tmp_path, listener)
    (event,) = result.events
    assert (event["guard"], event["step"], event["action"]) == ("degenerate", 4, "warn")
    assert listener.points[4]["guard/degenerate"] == 0.9
    assert any("90% of the answers" in message for message in listener.messages)


def test_degenerate_answers_can_stop_a_training(tmp_path: Path) -> None:
    config = a_config(guards=Guards(degenerate="stop"))
    with pytest.raises(TrainingError, match="repeat themselves: lower learning_rate"):
        train_tiny(config, Scripted(losses=[1.0] * 4, shares=[0.1, 0.9, 0.8, 0.2]), tmp_path)


def test_degenerate_answers_can_send_a_training_back_to_a_lower_rate(tmp_path: Path) -> None:
    config = a_config(guards=Guards(degenerate="rollback"), schedule="constant")
    validator = Scripted(losses=[1.0] * 9, shares=[0.0, 0.9, 0.0, 0.0, 0.0, 0.0])
    _, result = train_tiny(config, validator, tmp_path)
    rates = [point["learning_rate"] for point in result.history]
    assert rates == [3e-3] * 3 + [1.5e-3] * 5
    assert not any("skipped" in point for point in result.history)


def test_a_best_state_that_a_rollback_undid_is_not_asked_for_in_the_end(tmp_path: Path) -> None:
    config = a_config(
        guards=Guards(degenerate="rollback"), steps=12, checkpoint_every=6,
        validation=Validation(every=2, best="use"),
    )  # fmt: skip
    # 4 is best until 8 is, whose checkpoint takes its place; step 10 sends the training back to 6.
    losses = [3.0, 2.0, 2.5, 1.0, 1.5] + [2.2] * 9
    shares = [0.0, 0.0, 0.0, 0.0, 0.9] + [0.0] * 9
    weights, result = train_tiny(config, Scripted(losses, shares, best="use"), tmp_path)
    assert weights
    assert len(result.history) == 12


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    losses = [float("nan"), 2.0, 3.0, 3.0]
    train_tiny(a_config(), Scripted(losses), tmp_path)
    assert 4 in kept_steps(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": 0}, "validation.every must be at least 1, got 0"),
        ({"batches": 0}, "validation.batches must be at least 1"),
        ({"answers": -1}, "validation.answers must be at least 0"),
        ({"best": "last"}, "validation.best must be one of keep, use, off, got 'last'"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Validation(**values)


def test_a_config_with_validation_survives_json() -> None:
    config = a_config(validation=Validation(every=7, best="use"))
    assert TrainingConfig.from_json(config.to_json()) == config
