"""One training from a model folder to a model folder, whatever the engine and whoever starts it."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from workloads.data import Encoder, Shard, Subset, TrainingBatches, hold_out, open_shard
from workloads.mod import calibrate_threshold, is_converted, mod_config
from workloads.model_folder import open_model_folder, save_model_folder
from workloads.reporting import Reporter
from workloads.training.adapters import add_adapters, merge_adapters
from workloads.training.blank_image import blank_image_for_text, blank_image_inputs
from workloads.training.checkpoints.saver import Notice
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.digest import weights_digest
from workloads.training.engine import Engine
from workloads.training.errors import TrainingError
from workloads.training.loop import TrainingResult, train
from workloads.training.out_of_memory import advice_on_memory
from workloads.training.parts import choose_parts
from workloads.training.ranks import Ranks
from workloads.training.replacements import all_replaced
from workloads.training.validation import Validator

CALIBRATION_SAMPLES = 256
"""Training samples that set the inference threshold; the first ones of the order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What to train on what."""

    model: Path
    """Model folder to start from, dense or converted."""

    shard: Path
    """Arrow shard of training samples."""

    config: TrainingConfig
    reporter: Reporter

    def train(
        self,
        ranks: Ranks,
        engine_type: type[Engine],
        checkpoints: CheckpointStore,
        *,
        notice: Notice | None = None,
        stop_at_s: float | None = None,
    ) -> tuple[dict[str, Tensor] | None, TrainingResult]:
        """Train on this rank; see `workloads.training.train`.

        Returns:
            All weights on rank 0, None elsewhere; and what the training tells.

        Raises:
            TrainingError: See `workloads.training.train`; or, with advice, if memory runs out
                before the first step or when weights are gathered.
        """
        config = self.config
        config.rows_of_a_rank(ranks.size)  # Raises before anything slow.
        model, processor = open_model_folder(self.model)
        _choose_weights(model, config)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        batches, validator = self._batches(model, processor, ranks)
        with advice_on_memory(model, config, ranks, can_shard=engine_type.can_shard):
            engine = engine_type(model, config, ranks=ranks)
        with blank_image_for_text(model, blank_image_inputs(model, processor)):
            result = train(
                engine,
                batches,
                config,
                reporter=self.reporter,
                checkpoints=checkpoints,
                validator=validator,
                notice=notice,
                stop_at_s=stop_at_s,
            )
        result = replace(result, replaced=all_replaced(batches, ranks))
        with advice_on_memory(model, config, ranks, can_shard=engine_type.can_shard):
            return engine.full_weights(), result

    def write(self, output: Path, weights: dict[str, Tensor], result: TrainingResult) -> None:
        """Write ``model/`` and ``history.json`` into ``output``.

        The weights go into a fresh model, which no engine has hooks in; adapters are merged, and a
        model that routes by threshold at inference gets its threshold.

        Raises:
            TrainingError: If a weight changed that was not to learn.
        """
        model, processor = open_model_folder(self.model)
        _choose_weights(model, self.config)
        digest = _frozen_digest(model, weights)
        dtype = next(weight.dtype for weight in weights.values() if weight.is_floating_point())
        nn.Module.to(model, dtype)
        model.load_state_dict(weights)
        if self.config.lora is not None:
            merge_adapters(model)
        if is_converted(model) and mod_config(model).inference == "threshold":
            threshold = calibrate_threshold(model, self._calibration_batches(processor))
            self.reporter.message(f"inference threshold calibrated to {threshold:.4f}")
        save_model_folder(model, processor, output / "model")
        history: dict[str, Any] = {"points": list(result.history), "frozen_digest": digest}
        if result.events:
            history["events"] = list(result.events)
        if result.replaced:
            history["replaced"] = list(result.replaced)
        (output / "history.json").write_text(json.dumps(history, indent=1))

    def _batches(
        self, model: PreTrainedModel, processor: ProcessorMixin, ranks: Ranks
    ) -> tuple[TrainingBatches, Validator | None]:
        """This rank's batches, and what measures on those that are held out."""
        config = self.config
        samples, held_out = self._samples()
        batches_of = partial(
            TrainingBatches,
            encoder=Encoder(processor),
            global_batch=config.global_batch,
            micro_batch=config.micro_batch or config.rows_of_a_rank(ranks.size),
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        batches = batches_of(
            samples, group_by_length=config.group_by_length, tell=self.reporter.message
        )
        if config.validation is None or held_out is None:
            return batches, None
        plan, measured = config.validation, batches_of(held_out)
        return batches, Validator.over(held_out, measured, plan, model, processor)

    def _samples(self) -> tuple[Shard | Subset, Subset | None]:
        """What is trained on, and what is held out."""
        shard, plan = open_shard(self.shard), self.config.validation
        if plan is None:
            return shard, None
        count = plan.batches * self.config.global_batch
        return hold_out(shard, count, seed=self.config.seed)

    def _calibration_batches(self, processor: ProcessorMixin) -> list[dict[str, Tensor]]:
        """The same samples whatever the number of workers."""
        size = self.config.global_batch
        samples, _ = self._samples()
        batches = TrainingBatches(
            samples, Encoder(processor), global_batch=size, micro_batch=size, seed=self.config.seed
        )
        steps = range(max(1, CALIBRATION_SAMPLES // size))
        return [batch for step in steps for batch in batches.at(step)]


def _choose_weights(model: PreTrainedModel, config: TrainingConfig) -> None:
    choose_parts(model, config.trainable)
    if config.lora is not None:
        add_adapters(model, config.lora, seed=config.seed)


def _frozen_digest(before: PreTrainedModel, after: dict[str, Tensor]) -> str:
    """Digest of the weights that were not to learn, in the precision of training."""
    frozen = {
        name: weight.detach().to(after[name].dtype)
        for name, weight in before.named_parameters()
        if not weight.requires_grad
    }
    digest = weights_digest(frozen)
    if digest != weights_digest({name: after[name] for name in frozen}):
        changed = [name for name in frozen if not frozen[name].equal(after[name])]
        raise TrainingError(
            f"frozen weights changed in training: {', '.join(changed[:3])}; nothing was saved. "
            "This is a defect, please report it with the recipe"
        )
    return digest
