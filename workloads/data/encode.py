"""Encoding: samples to ids, labels and token kinds, for any processor with a chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from workloads.data.chat import ChatTemplate
from workloads.data.collate import IGNORED_LABEL, SEQUENCE_KEYS, Encoded, Side, collate
from workloads.data.records import Turn
from workloads.data.shards import Sample
from workloads.errors import DataError
from workloads.kinds import TokenKind
from workloads.text_processor import TextProcessor

Replacements = Sequence[Mapping[str, Any]]
"""Transformers' ``text_replacement_offsets`` of one text: placeholder spans before and after."""

# A tokenizer without a limit of its own reports one of about 1e30.
_NO_LIMIT = 1 << 30

# Plain numbers: an enum's members are looked up slowly, and these are for every token.
_SYSTEM, _IMAGE, _ANSWER = int(TokenKind.SYSTEM), int(TokenKind.IMAGE), int(TokenKind.ANSWER)


class Encoder:
    """Turns samples into model inputs with a Hugging Face processor.

    Token kinds come from the chat template and from what the processor put in the place of each
    image, so any number of images may stand anywhere. A sample that is too long is refused:
    cutting it would lose answer tokens or leave images without their tokens.

    Args:
        processor: An image-text processor, or a text-only model's tokenizer, with a chat template
            and a fast tokenizer.
        max_tokens: Longest sequence to accept; by default the tokenizer's own limit.

    Raises:
        DataError: If the processor lacks a chat template, a fast tokenizer or a pad token.
    """

    def __init__(
        self, processor: ProcessorMixin | TextProcessor, *, max_tokens: int | None = None
    ) -> None:
        _check_processor(processor)
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._chat = ChatTemplate(processor)
        self._image_token: str | None = processor.image_token  # type: ignore[union-attr]
        self._image_ids = frozenset(processor.image_token_ids)
        self._max_tokens = max_tokens or min(self._tokenizer.model_max_length, _NO_LIMIT)

    @property
    def pad_token_id(self) -> int:
        """The id that padding is filled with."""
        return int(self._tokenizer.pad_token_id)

    def training(self, sample: Sample) -> Encoded:
        """Encode a whole conversation; ``labels`` are its answer tokens, all else is ``-100``.

        Returns:
            ``(seq,)`` tensors of ids, mask, labels and kinds, and the images' ``pixel_values``.

        Raises:
            DataError: If the sample is too long, or the template cannot show it.
        """
        rows, vision = self._encode([sample], as_prompt=False)
        return rows[0] | vision

    def prompt(self, sample: Sample) -> Encoded:
        """Encode a conversation up to where the model has to give its last answer.

        Raises:
            DataError: If the sample is too long, or the template cannot show it.
        """
        rows, vision = self._encode([sample], as_prompt=True)
        return rows[0] | vision

    def training_batch(self, samples: Sequence[Sample]) -> Encoded:
        """Encode and pad on the right: ``collate`` of each ``training``, several times faster."""
        return self._batch(samples, as_prompt=False, side="right")

    def prompt_batch(self, samples: Sequence[Sample]) -> Encoded:
        """Encode and pad on the left: ``collate`` of each ``prompt``, several times faster."""
        return self._batch(samples, as_prompt=True, side="left")

    def _batch(self, samples: Sequence[Sample], *, as_prompt: bool, side: Side) -> Encoded:
        rows, vision = self._encode(samples, as_prompt=as_prompt)
        return collate(rows, pad_token_id=self.pad_token_id, side=side) | vision

    def _encode(
        self, samples: Sequence[Sample], *, as_prompt: bool
    ) -> tuple[list[Encoded], Encoded]:
        rows: dict[int, Encoded] = {}
        vision: Encoded = {}
        # Processors refuse a batch in which only some of the samples have images.
        for has_images in (True, False):
            members = {i: item for i, item in enumerate(samples) if bool(item.images) is has_images}
            if members:
                some_rows, some_vision = self._process(list(members.values()), as_prompt)
                rows.update(zip(members, some_rows, strict=True))
                vision.update(some_vision)
        return [rows[index] for index in range(len(samples))], vision

    def _process(self, samples: Sequence[Sample], as_prompt: bool) -> tuple[list[Encoded], Encoded]:
        rendered = [self._chat.render(item.id, _turns(item, as_prompt)) for item in samples]
        for sample, item in zip(samples, rendered, strict=True):
            self._check_placeholders(sample, item.text)
        features = self._call([item.text for item in rendered], samples)
        offsets = features.pop("offset_mapping")
        replacements = features.pop("text_replacement_offsets", None) or [()] * len(samples)
        sequences = {name: features.pop(name) for name in SEQUENCE_KEYS & features.keys()}
        rows = []
        for index, sample in enumerate(samples):
            row = {name: values[index] for name, values in sequences.items()}
            kinds = _expand(rendered[index].kinds, replacements[index])
            row["token_kinds"] = self._token_kinds(row["input_ids"], offsets[index], kinds)
            self._check_row(sample, len(row["input_ids"]), replacements[index])
            if not as_prompt:
                row["labels"] = _labels(row["input_ids"], row["token_kinds"])
            rows.append({name: torch.tensor(values) for name, values in row.items()})
        return rows, {name: _to_tensor(values) for name, values in features.items()}

    def _call(self, texts: list[str], samples: Sequence[Sample]) -> dict[str, Any]:
        bos = self._tokenizer.bos_token
        images = [list(sample.images) for sample in samples]
        try:
            features = self._processor(
                text=texts,
                images=images if images[0] else None,
                # As Hugging Face does: a template that writes the first token has said it.
                add_special_tokens=not (bos and texts[0].startswith(bos)),
                return_offsets_mapping=True,
                return_text_replacement_offsets=True,
            )
        except ValueError as error:
            # Such as an image one pixel high, whose colour channels a processor cannot tell.
            ids = ", ".join(repr(sample.id) for sample in samples)
            raise DataError(f"sample {ids}", "", f"is refused by its processor: {error}") from error
        return dict(features)

    def _token_kinds(
        self, input_ids: Sequence[int], offsets: Sequence[tuple[int, int]], kinds: bytes
    ) -> list[int]:
        # The kinds of a token's characters may differ where a word crosses into the answer; the
        # highest wins, which is the one that has to be learned.
        return [
            _IMAGE if token_id in self._image_ids else max(kinds[start:end], default=_SYSTEM)
            for token_id, (start, end) in zip(input_ids, offsets, strict=True)
        ]

    def _check_placeholders(self, sample: Sample, text: str) -> None:
        if self._image_token is None and sample.images:
            reason = f"has {len(sample.images)} image(s), but the model reads text only"
            raise DataError(f"sample {sample.id!r}", "", reason)
        placeholders = text.count(self._image_token) if self._image_token is not None else 0
        if placeholders != len(sample.images):
            reason = (
                f"the chat template shows {placeholders} of its {len(sample.images)} image(s); "
                "use a template that shows images in every turn that has them"
            )
            raise DataError(f"sample {sample.id!r}", "", reason)

    def _check_row(self, sample: Sample, length: int, replacements: Replacements) -> None:
        if length > self._max_tokens:
            reason = (
                f"needs {length} tokens, more than the limit of {self._max_tokens}; "
                "shorten its turns or raise the limit (nothing is cut in silence)"
            )
            raise DataError(f"sample {sample.id!r}", "", reason)
        if len(replacements) != len(sample.images):
            reason = (
                f"{type(self._processor).__name__} does not tell where it places images (its "
                "text_replacement_offsets), which token kinds are derived from; it is unsupported"
            )
            raise DataError(f"sample {sample.id!r}", "", reason)


def _turns(sample: Sample, as_prompt: bool) -> Sequence[Turn]:
    return sample.turns[:-1] if as_prompt else sample.turns


def _expand(kinds: bytes, replacements: Replacements) -> bytes:
    """Carry the kinds of a text's characters over to the text with expanded placeholders."""
    parts, cursor = [], 0
    for replacement in replacements:
        start, end = replacement["span"]
        parts += [kinds[cursor:start], bytes([TokenKind.SYSTEM]) * len(replacement["replacement"])]
        cursor = end
    return b"".join([*parts, kinds[cursor:]])


def _labels(input_ids: Sequence[int], token_kinds: Sequence[int]) -> list[int]:
    return [
        token_id if kind == _ANSWER else IGNORED_LABEL
        for token_id, kind in zip(input_ids, token_kinds, strict=True)
    ]


def _to_tensor(values: Any) -> Tensor:  # noqa: ANN401 - processors return tensors, arrays or lists
    if isinstance(values, Tensor):
        return values
    return torch.stack([torch.as_tensor(value) for value in values])


def _check_processor(processor: ProcessorMixin | TextProcessor) -> None:
    tokenizer = getattr(processor, "tokenizer", None)
    name = type(processor).__name__
    has_images = isinstance(processor, TextProcessor) or getattr(processor, "image_token", None)
    if tokenizer is None or not has_images:
        raise DataError(name, "", "is no image-text processor; load one with AutoProcessor")
    if not processor.chat_template:
        raise DataError(name, "", "has no chat template; set processor.chat_template")
    if not tokenizer.is_fast:
        raise DataError(name, "", "has a slow tokenizer; token kinds need a fast one's offsets")
    if tokenizer.pad_token_id is None:
        raise DataError(name, "", "has no pad token; set processor.tokenizer.pad_token")
