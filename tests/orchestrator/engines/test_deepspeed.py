from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration

from orchestrator.durable import open_store
from orchestrator.engines.deepspeed import DeepSpeedEngine
from tests.workloads.training.poison import Exploding, Marked, NaNPixel
from tests.workloads.training.tiny import (
    FakeBatches,
    Listener,
    NoCheckpoints,
    PromptCheckpoints,
    blank_image,
    collate,
    run_on_ranks,
    sample,
    tiny_llava,
)
from workloads.mod import MoDConfig, convert
from workloads.training import (
    Guards,
    Ranks,
    TorchEngine,
    TrainingConfig,
    TrainingError,
    TrainingResult,
    Validation,
    Validator,
    blank_image_for_text,
    choose_parts,
    train,
)

ANSWERS = GenerationConfig(
    do_sample=False, max_new_tokens=16, min_new_tokens=16, pad_token_id=0, eos_token_id=1
)

pytestmark = pytest.mark.distributed


class KilledError(Exception):
    """Stands for the end of the process."""


class DyingBatches(FakeBatches):
    def at(self, step: int) -> list[dict[str, Tensor]]:
        if step == 3:
            raise KilledError
        return super().at(step)


def a_config(**changes: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "steps": 4, "learning_rate": 3e-3, "weight_decay": 0.1, "global_batch": 4,
        "micro_batch": 2, "checkpoint_every": 2,
        "trainable": ("projector", "vision_tower", "language_model"),
    }  # fmt: skip
    return TrainingConfig(**{**defaults, **changes})


def train_tiny(
    config: TrainingConfig,
    batches: type[FakeBatches] = FakeBatches,
    engine_type: type[DeepSpeedEngine] = DeepSpeedEngine,
    validator: Validator | None = None,
    **options: Any,
) -> tuple[dict[str, Tensor] | None, TrainingResult]:
    ranks = Ranks.current()
    model = options.pop("make", tiny_llava)()
    choose_parts(model, config.trainable)
    engine = engine_type(model, config, ranks=ranks)
    checkpoints: Any = NoCheckpoints()
    if folder := options.pop("store", None):
        checkpoints = PromptCheckpoints(
            objects=open_store(folder), prefix="training", writer="first", ranks=ranks, warn=print
        )
    micro_batch = config.micro_batch or 2
    with blank_image_for_text(model, blank_image()):
        result = train(
            engine,
            batches(rank=ranks.rank, size=ranks.size, micro_batch=micro_batch, **options),
            config,
            reporter=Listener(),
            checkpoints=checkpoints,
            validator=validator,
        )
    return engine.full_weights(), result


def alone(config: TrainingConfig, **options: Any) -> tuple[dict[str, Tensor], TrainingResult]:
    """The same training by one process with plain torch."""
    model = options.pop("make", tiny_llava)()
    choose_parts(model, config.trainable)
    engine = TorchEngine(model, config, ranks=Ranks())
    with blank_image_for_text(model, blank_image()):
        result = train(
            engine,
            FakeBatches(**options),
            config,
            reporter=Listener(),
            checkpoints=NoCheckpoints(),
        )
    weights = engine.full_weights()
    assert weights is not None
    return weights, result


def assert_agrees_with_torch(config: TrainingConfig, batches: type[FakeBatches]) -> None:
    weights, result = train_tiny(config, batches)
    if weights is None:
        return
    expected, reference = alone(config)
    for left, right in zip(result.history, reference.history, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=1e-4)


def agree_with_torch() -> None:
    for stage in range(4):
        assert_agrees_with_torch(a_config(zero_stage=stage, micro_batch=1), FakeBatches)
    _, coarse = train_tiny(a_config(precision="bf16"))
    _, exact = train_tiny(a_config())
    assert coarse.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.02)


def keep_optimizers_in_memory() -> None:
    for stage in (2, 3):
        config = a_config(zero_stage=stage, micro_batch=1, offload_optimizer=True)
        assert_agrees_with_torch(config, FakeBatches)


def measure_held_out_samples(folder: str) -> None:
    plan = Validation(every=2, best="off")
    plain, _ = alone(a_config(micro_batch=1))
    reference = Validator(FakeBatches(micro_batch=1), plan, prompts(), ANSWERS)
    for stage in (0, 2, 3):
        config = a_config(zero_stage=stage, micro_batch=1, validation=plan)
        ranks = Ranks.current()
        own = FakeBatches(rank=ranks.rank, size=ranks.size, micro_batch=1)
        weights, result = train_tiny(
            config, validator=Validator(own, plan, prompts(), ANSWERS), store=f"{folder}/{stage}"
        )
        losses = [
            point["validation_loss"] for point in result.history if "validation_loss" in point
        ]
        shares = [p["degenerate_answers"] for p in result.history if "degenerate_answers" in p]
        assert len(losses) == len(shares) == 2
        if weights is None:
            continue
        for name, weight in plain.items():
            torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=1e-4)
        model = tiny_llava()
        model.load_state_dict(weights)
        engine = TorchEngine(model, config, ranks=Ranks())
        assert reference.loss(engine) == pytest.approx(losses[-1], rel=1e-5)
        assert reference.degenerate_share(engine) == shares[-1]


def prompts() -> dict[str, Tensor]:
    batch = collate([sample(number, answers=0) for number in range(90, 94)])
    return {name: value for name, value in batch.items() if name not in ("labels", "token_kinds")}


def train_text_beside_images() -> None:
    for stage in range(4):
        _, result = train_tiny(a_config(zero_stage=stage), only_text_on=1)
        losses = torch.tensor([point["loss"] for point in result.history])
        if stage == 0:
            first = losses
        torch.testing.assert_close(losses, first, atol=1e-5, rtol=1e-5)


def resume_bit_for_bit(folder: str) -> None:
    for stage in (2, 3):
        config, store = a_config(zero_stage=stage), f"{folder}/zero-{stage}"
        undisturbed, whole = train_tiny(config)
        with pytest.raises(KilledError):
            train_tiny(config, DyingBatches, store=store)
        dist.barrier()
        weights, result = train_tiny(config, store=store)
        assert result.resumed_at == 2
        assert result.history == whole.history
        if weights is not None:
            assert undisturbed is not None
            assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


def tiny_p_mod() -> LlavaForConditionalGeneration:
    """Its router has a bias of one number, a group of weights that leaves ranks empty."""
    model = tiny_llava()
    torch.manual_seed(2)
    config = replace(MoDConfig.p_mod(2), layers=(1,), capacities=(0.5,))
    convert(model, config)
    return model


def resume_on_another_number_of_ranks(folder: str, dies_at: int | None, resumed_at: int) -> None:
    """One leg of a training whose number of ranks changes on the way."""

    class Dying(FakeBatches):
        def at(self, step: int) -> list[dict[str, Tensor]]:
            if step == dies_at:
                raise KilledError
            return super().at(step)

    for stage in (0, 1, 2, 3):
        changes = {"vision_learning_rate": 1e-3, "trainable": (*a_config().trainable, "router")}
        config = a_config(zero_stage=stage, steps=7, micro_batch=1, **changes)
        store = f"{folder}/zero-{stage}"
        if dies_at is not None:
            with pytest.raises(KilledError):
                train_tiny(config, Dying, store=store, make=tiny_p_mod)
            continue
        weights, result = train_tiny(config, Dying, store=store, make=tiny_p_mod)
        assert result.resumed_at == resumed_at
        if weights is None:
            continue
        expected, reference = alone(config, make=tiny_p_mod)
        losses = [point["loss"] for point in result.history]
        undisturbed = [point["loss"] for point in reference.history]
        assert losses == pytest.approx(undisturbed, rel=1e-5), f"ZeRO-{stage}"
        for name, weight in expected.items():
            torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=1e-4)


def test_a_training_goes_on_with_fewer_ranks_and_with_more_again(tmp_path: Path) -> None:
    legs = ((2, 3, 0), (1, 5, 2), (2, None, 4))
    for number, (size, dies_at, resumed_at) in enumerate(legs):
        meeting_point = tmp_path / f"leg-{number}"
        meeting_point.mkdir()
        leg = resume_on_another_number_of_ranks
        run_on_ranks(leg, size, meeting_point, str(tmp_path), dies_at, resumed_at)


class ExplodingDeepSpeed(Exploding, DeepSpeedEngine):
    """`DeepSpeedEngine` with a loss that explodes."""


def act_on_bad_batches(folder: str) -> None:
    """A skipped batch leaves weights and optimizer as they were; a rollback restores them."""

    class Marks(Marked):
        bad = (2,)

    class Pixels(NaNPixel):
        bad = (2,)

    for stage, precision in (
        (0, "fp32"),
        (1, "fp32"),
        (2, "fp32"),
        (3, "fp32"),
        (0, "bf16"),
        (2, "bf16"),
    ):
        config = a_config(zero_stage=stage, precision=precision, learning_rate=1e-3)

        def guarded(batches: type[FakeBatches], config: TrainingConfig = config, **actions: Any):
            guards = Guards(spike_window=2, spike_factor=50.0, **actions)
            return train_tiny(
                replace(config, guards=guards),
                batches,
                ExplodingDeepSpeed,
                store=f"{folder}/{config.zero_stage}-{config.precision}-{actions}",
            )

        weights, reference = guarded(Pixels, non_finite="skip")
        skipped, result = guarded(Marks, spike="skip")
        assert [event["guard"] for event in result.events] == ["spike"]
        assert "skipped" in result.history[2]
        assert result.history[3] == reference.history[3]
        _, back = guarded(Marks, spike="rollback")
        assert back.history[3]["learning_rate"] == 0.5 * reference.history[3]["learning_rate"]
        assert back.history[3]["loss"] == reference.history[3]["loss"]
        if weights is not None:
            assert skipped is not None
            assert all(torch.equal(weights[name], skipped[name]) for name in weights)


def test_a_bad_batch_is_left_out_or_rolled_back_in_every_zero_stage(tmp_path: Path) -> None:
    run_on_ranks(act_on_bad_batches, 2, tmp_path, str(tmp_path))


def test_every_zero_stage_agrees_with_one_torch_process(tmp_path: Path) -> None:
    run_on_ranks(agree_with_torch, 2, tmp_path)


def test_optimizer_states_kept_in_memory_change_no_update(tmp_path: Path) -> None:
    run_on_ranks(keep_optimizers_in_memory, 2, tmp_path)


def test_ranks_measure_held_out_samples_together_in_every_zero_stage(tmp_path: Path) -> None:
    run_on_ranks(measure_held_out_samples, 2, tmp_path, str(tmp_path))


def test_a_rank_with_only_text_trains_beside_one_with_images(tmp_path: Path) -> None:
    run_on_ranks(train_text_beside_images, 2, tmp_path)


def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    run_on_ranks(resume_bit_for_bit, 2, tmp_path, str(tmp_path))


def test_a_batch_that_ranks_cannot_share_is_refused_before_anything_starts() -> None:
    with pytest.raises(TrainingError, match="global_batch 4 cannot be shared equally by 3 workers"):
        DeepSpeedEngine(tiny_llava(), a_config(), ranks=Ranks(rank=0, size=3))
