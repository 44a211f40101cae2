"""What a training measures on samples it never sees: the loss, and whether answers are text."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from workloads.data import Encoder, Sample, Subset
from workloads.errors import DataError
from workloads.generation import greedy_settings, model_inputs
from workloads.mod import calibrate_threshold, is_converted, mod_config, training_rule
from workloads.mod.convert import set_config
from workloads.mod.modes import evaluating
from workloads.training.config import Validation
from workloads.training.engine import Engine
from workloads.training.micro_batch import Batches, count_targets, to_device, training_inputs

_GRAM = 3
_SHORTEST = 12
"""Tokens of an answer below which repetition is not judged."""
_MOST_REPEATED = 0.5


@dataclass(frozen=True, slots=True)
class Validator:
    """Measures on held-out samples; all ranks make the same calls."""

    batches: Batches
    """This rank's part of them."""

    plan: Validation

    prompts: Mapping[str, Tensor] | None
    """Left-padded questions to answer, the same on all ranks; None for none."""

    settings: GenerationConfig

    @property
    def keeps_best(self) -> bool:
        """Whether the state with the lowest loss is to be remembered."""
        return self.plan.best != "off"

    @classmethod
    def over(
        cls,
        samples: Subset,
        batches: Batches,
        plan: Validation,
        model: PreTrainedModel,
        processor: ProcessorMixin,
    ) -> Self:
        """Build it.

        Args:
            samples: All that are held out; of those that can be encoded the first are answered.
            batches: This rank's part of them.
            plan: How many of each.
            model: To be measured.
            processor: Its processor.
        """
        encoder = Encoder(processor)
        asked = _usable(samples, encoder, plan.answers)
        prompts = encoder.prompt_batch(asked) if asked else None
        return cls(batches, plan, prompts, greedy_settings(model, processor, plan.max_new_tokens))

    def loss(self, engine: Engine) -> float:
        """Mean loss of an answer token; a converted model routes as in training."""
        total = torch.zeros((), dtype=torch.float64)
        targets = 0
        is_mod = is_converted(engine.model)
        rule = training_rule(engine.model) if is_mod else nullcontext()
        with rule, evaluating(engine.model), torch.no_grad():
            for index in range(self.plan.batches):
                for on_host in self.batches.at(index):
                    count = count_targets(on_host)
                    batch = to_device(on_host, engine.ranks.device)
                    output = engine.forward(training_inputs(batch, count, is_mod=is_mod))
                    total += output.loss.double().cpu() * count
                    targets += count
        summed, number = engine.ranks.sum([float(total), targets])
        return summed / max(number, 1.0)

    def degenerate_share(self, engine: Engine) -> float | None:
        """Share of the answers that are no text, see `is_degenerate`; None without questions.

        A model that routes by threshold gets one from the questions, for this time only.
        """
        if self.prompts is None:
            return None
        model = engine.model
        config = mod_config(model) if is_converted(model) else None
        inputs = model_inputs(model, self.prompts)
        inputs = {name: _cast(value, model) for name, value in inputs.items()}
        try:
            with evaluating(model), torch.no_grad():
                if config is not None and config.inference == "threshold":
                    calibrate_threshold(model, [inputs])
                sequences: Tensor = model.generate(  # type: ignore[operator]
                    **inputs,
                    generation_config=self.settings,
                    # Ranks that shard weights must run the same number of forward passes.
                    synced_gpus=engine.ranks.size > 1,
                )
        finally:
            if config is not None:
                set_config(model, config)
        answers = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        left_out = _special(self.settings)
        texts = [[token for token in answer if token not in left_out] for answer in answers]
        # Rank 0 decides: on unlike devices a token may differ.
        share = sum(map(is_degenerate, texts)) / len(texts)
        return engine.ranks.from_first(share)


def is_degenerate(answer: Sequence[int]) -> bool:
    """Whether an answer is empty, or mostly repeats itself.

    Args:
        answer: Token ids without special ones.
    """
    return not answer or (len(answer) >= _SHORTEST and repeated_share(answer) > _MOST_REPEATED)


def repeated_share(answer: Sequence[int]) -> float:
    """Share of an answer's 3-grams that have occurred in it before, in [0, 1)."""
    grams = [tuple(answer[start : start + _GRAM]) for start in range(len(answer) - _GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _usable(samples: Subset, encoder: Encoder, wanted: int) -> list[Sample]:
    found: list[Sample] = []
    for index in range(len(samples)):
        if len(found) == wanted:
            break
        try:
            sample = samples[index]
            encoder.prompt_batch([sample])
        except DataError:
            continue
        found.append(sample)
    return found


def _cast(value: Any, model: PreTrainedModel) -> Any:  # noqa: ANN401
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(model.dtype) if is_float else value


def _special(settings: GenerationConfig) -> set[int]:
    ends = settings.eos_token_id
    return {settings.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
