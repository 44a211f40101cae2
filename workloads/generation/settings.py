"""Generation settings that a model's own defaults do not change."""

from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin


def greedy_settings(
    model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int
) -> GenerationConfig:
    """Greedy decoding without beams, which ends where the model's generation config says."""
    tokenizer = processor.tokenizer
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id if ends is None else ends,
    )
