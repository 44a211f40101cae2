"""Writes docs/models.md: which families of transformers can be converted, and why others cannot.

    python benchmarks/models.py --out docs/models.md

A family stands in the first table if the checks of tests/workloads/mod/test_families.py pass for
it, which ``make test-all`` runs. The others are tried once, and the reason is what conversion says.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tests.workloads.mod.families import (
    COMMON,
    OTHERS,
    TEXT_ONLY,
    routable_layers,
    tiny_model,
)
from workloads.errors import ConversionError
from workloads.mod import MoDConfig, convert

CHECKED = sorted((*COMMON, *OTHERS, *TEXT_ONLY))
PATIENCE_S = 60


def main() -> None:
    """Try every family in a process of its own: some defaults are too large to build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    others = sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - set(CHECKED))
    checked = [f"| `{family}` | {_tried(family)} |" for family in CHECKED]
    refused = [f"| `{family}` | {_tried(family)} |" for family in others]
    args.out.write_text(page(checked, refused))


def page(checked: Iterable[str], refused: Iterable[str]) -> str:
    """The document."""
    return "\n".join(
        [
            "# Model families",
            "",
            f"With transformers {transformers.__version__}. Written by `benchmarks/models.py`; the "
            "checks are those of `tests/workloads/mod/test_families.py`: identity at full "
            "capacity bit for bit, a weight of zero, training of every router, gradient "
            "checkpointing, batched generation with left padding, step-by-step decoding, saving "
            "and loading, conversion and back, bfloat16; with one image, several, and none in a "
            "batch, on tiny models without their vision towers' input.",
            "",
            "| checked family | decoder layer, and the child that the router's weight multiplies |",
            "|---|---|",
            *checked,
            "",
            "| other family | what conversion says of a tiny model |",
            "|---|---|",
            *refused,
            "",
        ]
    )


def _tried(family: str) -> str:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=lambda: answers.put(_try(family)))
    process.start()
    process.join(PATIENCE_S)
    answer = "not checked: too large by its defaults"
    if process.exitcode == 0:
        answer = answers.get()
    process.kill()
    sys.stderr.write(f"{family}: {answer}\n")
    return answer


def _try(family: str) -> str:
    try:
        model = tiny_model(family)
    except Exception as error:  # noqa: BLE001 - every family has its own way to fail
        return f"not checked: no tiny model by the rules on sizes ({type(error).__name__})"
    try:
        layers = routable_layers(model)
        if not layers:
            return "refused: it has no full-attention layer"
        convert(model, MoDConfig.gamma(layers=layers, masked="none"))
    except (ConversionError, AttributeError) as error:
        return f"refused: {str(error).splitlines()[0][:200].replace('|', '/')}"
    layer = model.get_decoder().layers[layers[0]]
    kind = "" if family in CHECKED else "converts, not checked: "
    return f"{kind}`{type(layer).__name__}`, `{layer.mod_slot.anatomy.branch}`"


if __name__ == "__main__":
    main()
