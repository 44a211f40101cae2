"""Held-out images as the converted model sees them: which patches each layer skipped."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from workloads.data import Encoder, Sample
from workloads.kinds import TokenKind
from workloads.mod import RoutingRecord

_IMAGE_MARK = "<image>"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerView:
    """What one layer did with the patches of one image."""

    layer: int
    skipped: tuple[int, ...]
    """Indices of skipped patches, row by row."""
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One question about one image, with both answers."""

    image: str
    """The pixels that the model got, as a ``data:`` URI."""
    pixels: int
    """Width of that image."""
    rows: int
    columns: int
    """Grid of patches; 0 by 0 where the image tokens form no grid."""
    layers: tuple[LayerView, ...]
    kind: str
    question: str
    expected: str
    dense: str
    mod: str
    is_dense_right: bool
    is_mod_right: bool


def pick(
    dense: Sequence[Mapping[str, Any]], mod: Sequence[Mapping[str, Any]], count: int
) -> list[int]:
    """Choose predictions to show: one of each kind in turn, and one that went wrong if any did.

    A page of right answers only would say more than the accuracy does.
    """
    by_kind: dict[str, list[int]] = {}
    for index, item in enumerate(mod):
        by_kind.setdefault(item["tag"], []).append(index)
    longest = max(map(len, by_kind.values()), default=0)
    # Questions about one image follow each other, so each kind begins at another image.
    in_turn = [
        members[(turn * len(by_kind) + start) % len(members)]
        for turn in range(longest)
        for start, members in enumerate(by_kind.values())
    ]
    in_turn = list(dict.fromkeys(in_turn))
    chosen = in_turn[:count]
    wrong = [index for index in in_turn if not mod[index]["is_correct"]]
    if wrong and count and not set(chosen) & set(wrong):
        chosen[-1] = wrong[0]
    return chosen


@torch.no_grad()
def make_examples(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    dense: Sequence[Mapping[str, Any]],
    mod: Sequence[Mapping[str, Any]],
    *,
    count: int = 6,
    layers: int = 4,
) -> list[Example]:
    """Run prefills of the converted model and keep what its layers skipped.

    Args:
        model: Converted.
        processor: Its processor.
        samples: Evaluation samples in the order of the predictions.
        dense: Predictions of the dense twin, as in ``predictions.jsonl``.
        mod: Predictions of ``model``, of the same questions in the same order.
        count: How many examples.
        layers: How many MoD layers to show of each, spread from the first to the last.
    """
    model.eval()  # type: ignore[no-untyped-call]
    encoder = Encoder(processor)
    return [
        _example(model, processor, encoder, samples[index], dense[index], mod[index], layers)
        for index in pick(dense, mod, count)
        if samples[index].images
    ]


def _example(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    encoder: Encoder,
    sample: Sample,
    dense: Mapping[str, Any],
    mod: Mapping[str, Any],
    layers: int,
) -> Example:
    batch = {name: value.to(model.device) for name, value in encoder.prompt_batch([sample]).items()}
    record = RoutingRecord(keep_masks=True)
    model(**batch, routing_record=record, use_cache=False)
    picture = _seen(batch["pixel_values"], processor, sample.images[0])
    is_image = (batch["token_kinds"][0] == TokenKind.IMAGE).cpu()
    patches = int(is_image.sum()) // len(sample.images)
    side = isqrt(patches) if isqrt(patches) ** 2 == patches else 0
    return Example(
        image=_data_uri(picture),
        pixels=picture.width,
        rows=side,
        columns=side,
        layers=_views(record, is_image, patches, layers) if side else (),
        kind=mod["tag"],
        question=_question(sample),
        expected=mod["expected"],
        dense=dense["answer"],
        mod=mod["answer"],
        is_dense_right=dense["is_correct"],
        is_mod_right=mod["is_correct"],
    )


def _views(
    record: RoutingRecord, is_image: Tensor, patches: int, count: int
) -> tuple[LayerView, ...]:
    """Masks of the first image at ``count`` of the MoD layers, first and last among them."""
    layers = sorted(record.masks)
    last, steps = len(layers) - 1, max(min(count, len(layers)) - 1, 1)
    shown = sorted({layers[round(step * last / steps)] for step in range(min(count, len(layers)))})
    views = []
    for layer in shown:
        routed = record.masks[layer][-1][0].cpu()[is_image][:patches]
        skipped = (~routed).nonzero().flatten().tolist()
        views.append(LayerView(layer=layer, skipped=tuple(skipped), share=len(skipped) / patches))
    return tuple(views)


def _seen(pixels: Tensor, processor: ProcessorMixin, original: Image.Image) -> Image.Image:
    """The picture after resizing and cropping, whose patches are the model's."""
    settings = processor.image_processor
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        return original.convert("RGB")
    mean, std = (torch.tensor(getattr(settings, name)) for name in ("image_mean", "image_std"))
    unit = pixels[0].float().cpu() * std.view(3, 1, 1) + mean.view(3, 1, 1)
    array = (unit.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def _data_uri(picture: Image.Image) -> str:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _question(sample: Sample) -> str:
    asked = [turn.text for turn in sample.turns if turn.role == "human"]
    return asked[-1].replace(_IMAGE_MARK, "").strip()
