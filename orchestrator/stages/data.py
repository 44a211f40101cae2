"""Stage ``data``: LLaVA-format conversations become memory-mapped shards with their images."""

import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.dataset import build_dataset
from orchestrator.durable import StepContext
from workloads.data import Build, Summary, build_digits_vqa

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
            _write_shards(
                context, {split: Build(str(root / f"{split}.json"), scratch) for split in SPLITS}
            )
    else:
        files, images = settings["files"], settings["images"]
        train = Build(files["train"], images, params.get("on_bad_image", "stop"))
        # A question that cannot be asked has no replacement: every image of these is checked.
        _write_shards(context, {"train": train, "eval": Build(files["eval"], images)})


_DIGITS_SIZES = ("train_scenes", "eval_scenes", "questions_per_scene")


def _write_shards(context: StepContext, builds: dict[str, Build]) -> None:
    described = {}
    for split, build in builds.items():
        told = partial(context.reporter.progress, unit="records", note=split)
        summary = build_dataset(build, context.output / f"{split}.arrow", told)
        if summary.missing_images:
            context.reporter.message(
                f"{split}: {summary.missing_images} images are missing; training replaces them"
            )
        described[split] = _describe(summary)
    (context.output / "dataset.json").write_text(json.dumps(described, indent=1, sort_keys=True))


def _describe(summary: Summary) -> dict[str, object]:
    missing = {"missing_images": summary.missing_images} if summary.missing_images else {}
    return {
        "conversations": summary.conversations,
        "images": summary.images,
        "kinds": dict(summary.kinds),
        **missing,
    }
