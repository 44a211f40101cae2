"""Stage ``data``: LLaVA-format conversations become memory-mapped shards with their images."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.durable import StepContext
from workloads.data import Conversation, build_digits_vqa, read_llava, write_shard

SPLITS = ("train", "eval")


def data(context: StepContext) -> None:
    """Write ``train.arrow``, ``eval.arrow`` and ``dataset.json``.

    The embedded digits take the way of a user's data: JSON and PNG files first, then the
    same reader with the same checks.

    Raises:
        DataError: If a record, an image or a file cannot be used; it names the place.
    """
    params: Mapping[str, Any] = context.params
    settings: Mapping[str, Any] = context.settings
    if params["source"] == "digits-vqa":
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            sizes = {name: params[name] for name in _DIGITS_SIZES}
            build_digits_vqa(root, seed=params["seed"], **sizes)
            _write_shards(context, {split: root / f"{split}.json" for split in SPLITS}, root)
    else:
        files = {split: context.inputs[split].path for split in SPLITS}
        _write_shards(context, files, Path(settings["images"]))


_DIGITS_SIZES = ("train_scenes", "eval_scenes", "questions_per_scene")


def _write_shards(context: StepContext, files: dict[str, Path], image_root: Path) -> None:
    described = {}
    for done, (split, json_file) in enumerate(files.items()):
        context.reporter.progress(done, len(files), unit="splits", note=split)
        conversations = read_llava(json_file, image_root)
        write_shard(conversations, image_root, context.output / f"{split}.arrow")
        described[split] = _describe(conversations)
    context.reporter.progress(len(files), len(files), unit="splits")
    (context.output / "dataset.json").write_text(json.dumps(described, indent=1, sort_keys=True))


def _describe(conversations: Sequence[Conversation]) -> dict[str, object]:
    kinds = Counter(conversation.tags.get("kind", "") for conversation in conversations)
    images = {image for conversation in conversations for image in conversation.images}
    return {"conversations": len(conversations), "images": len(images), "kinds": dict(kinds)}
