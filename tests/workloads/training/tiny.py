"""A tiny image-text model, batches for it, and a way to run functions on two ranks."""

import faulthandler
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from workloads.training import Checkpoints

IMAGE, PATCHES, PIXELS, VOCABULARY = 3, 4, 8, 40


def tiny_llava() -> LlavaForConditionalGeneration:
    """Two layers of 16 features; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=PIXELS,
                patch_size=PIXELS // 2,
                projection_dim=8,
            ),
            text_config=LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
            ),
            image_token_index=IMAGE,
            image_seq_length=PATCHES,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )
        return LlavaForConditionalGeneration(config)


def blank_image() -> dict[str, Tensor]:
    return {"pixel_values": torch.zeros(1, 3, PIXELS, PIXELS)}


def sample(number: int, *, has_image: bool = True, answers: int | None = None) -> dict[str, Tensor]:
    """One row: image tokens if any, four question tokens, then one to four answer tokens."""
    generator = torch.Generator().manual_seed(number)
    count = 1 + number % 4 if answers is None else answers
    text = torch.randint(4, VOCABULARY, (4 + count,), generator=generator)
    images = torch.full((PATCHES if has_image else 0,), IMAGE)
    row = {"input_ids": torch.cat([images, text])}
    row["labels"] = torch.cat(
        [torch.full_like(row["input_ids"][: len(images) + 4], -100), text[4:]]
    )
    if has_image:
        row["pixel_values"] = torch.rand(3, PIXELS, PIXELS, generator=generator)
    return row


def collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    length = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.stack(
            [
                torch.nn.functional.pad(row[name], (0, length - len(row[name])), value=fill)
                for row in rows
            ]
        )

    ids = padded("input_ids", 0)
    batch = {
        "input_ids": ids,
        "labels": padded("labels", -100),
        "attention_mask": (ids != 0).long(),
    }
    batch["token_kinds"] = batch["attention_mask"].clone()
    images = [row["pixel_values"] for row in rows if "pixel_values" in row]
    return batch | ({"pixel_values": torch.stack(images)} if images else {})


@dataclass
class FakeBatches:
    """Global batches of numbered samples; ``only_text_on`` names the rank that sees no images."""

    global_batch: int = 4
    micro_batch: int = 2
    rank: int = 0
    size: int = 1
    only_text_on: int | None = None
    answers: int | None = None

    def at(self, step: int) -> list[dict[str, Tensor]]:
        numbers = range(step * self.global_batch, (step + 1) * self.global_batch)
        has_image = self.rank != self.only_text_on
        rows = [
            sample(number, has_image=has_image, answers=self.answers)
            for number in list(numbers)[self.rank :: self.size]
        ]
        starts = range(0, len(rows), self.micro_batch)
        return [collate(rows[start : start + self.micro_batch]) for start in starts]

    def sample_ids(self, step: int) -> list[str]:
        numbers = range(step * self.global_batch, (step + 1) * self.global_batch)
        return [f"sample-{number}" for number in numbers]

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        pass


@dataclass
class Listener:
    """A reporter that remembers."""

    points: dict[int, dict[str, float]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self.done.append(done)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.points.setdefault(step, {}).update(values)

    def message(self, text: str) -> None:
        self.messages.append(text)


class NoCheckpoints:
    """A store that keeps nothing."""

    def restore(self, layout: str, load: Callable[[Path], None]) -> int | None:
        return None

    def roll_back(self, step: int, layout: str, load: Callable[[Path], None]) -> int | None:
        return None

    def save(
        self,
        step: int,
        layout: str,
        write: Callable[[Path], None],
        *,
        protected: Collection[int] = (),
    ) -> None:
        pass

    is_uploaded = True

    def finish(self) -> None:
        return None


class PromptCheckpoints(Checkpoints):
    """Checkpoints that are whole a step after they were begun, so that tests know what is kept."""

    @property
    def is_uploaded(self) -> bool:
        if self._pending is not None:
            self._pending.upload.result()
        return True


def run_on_ranks(function: Callable[..., None], size: int, folder: Path, *args: Any) -> None:
    """Run ``function(*args)`` in ``size`` processes of one gloo group; fail when one fails."""
    arguments = (size, str(folder / "meeting-point"), function, args)
    torch.multiprocessing.spawn(_rank_main, args=arguments, nprocs=size)


def _rank_main(
    rank: int, size: int, meeting_point: str, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    faulthandler.enable()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=size
    )
    function(*args)
    dist.destroy_process_group()
    # DeepSpeed's communication library keeps the group, whose threads race with the end of Python
    # and abort it now and then.
    sys.stdout.flush()
    os._exit(0)
