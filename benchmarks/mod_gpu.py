"""Time and memory of a converted 7B decoder over its dense twin's on one CUDA device.

    python benchmarks/mod_gpu.py --out docs/results/mod-gpu.md
    python benchmarks/mod_gpu.py --only prefill

A random decoder of the shape of Vicuna-7B in bfloat16, with the image tokens of LLaVA-HR (1,024)
and LLaVA-NeXT (2,880) and 64 text tokens. Both twins hold the same weights. Runs alternate; a
row's figure is the median of the pairs' ratios, beside the ratio of operations that torch counts.
"""

import argparse
import copy
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.evaluation import Run, prefill, side_by_side, training_step
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert

LAYERS, TEXT, DECODED, PAIRS = 32, 64, 32, 9
SHAPE: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
DENSE_LAYERS = (0, 1, 2, 31)
"""Of the released gamma-MoD of 7B."""

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Setting:
    """A configuration and the image tokens it was published with."""

    config: MoDConfig
    images: int


def gamma(skipped: float) -> Setting:
    """gamma-MoD of the release with images routable, by top-k at inference too."""
    layers = [layer for layer in range(LAYERS) if layer not in DENSE_LAYERS]
    config = MoDConfig.gamma(layers=layers, capacity_ratio=1 - skipped, masked="image-only")
    return Setting(replace(config, inference="topk"), 1024)


SETTINGS = {
    "gamma-MoD-0.3": gamma(0.34),
    "gamma-MoD-0.5": gamma(0.51),
    "p-MoD": Setting(MoDConfig.p_mod(LAYERS), 2880),
}
ROWS = {
    "train": (1, 4),
    "prefill": (1, 4, 16),
    "decode": (1, 4, 16),
}


def twins(config: MoDConfig) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """A dense decoder and its converted twin on the same weights, with routers that part tokens."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        dense = LlamaForCausalLM(LlamaConfig(**SHAPE)).bfloat16()
    dense.config.image_token_id = SHAPE["vocab_size"] - 1
    shared = {id(parameter): parameter for parameter in dense.parameters()}
    mod = convert(copy.deepcopy(dense, shared), config)
    for name, parameter in mod.named_parameters():
        if "mod_router" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return dense, mod


def batch_of(size: int, images: int) -> Batch:
    """Rows of system text, an image and a question, with labels."""
    ids = torch.randint(SHAPE["vocab_size"] - 1, (size, images + TEXT), device="cuda")
    kinds = torch.full_like(ids, int(TokenKind.QUESTION))
    kinds[:, 10 : 10 + images] = TokenKind.IMAGE
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "token_kinds": kinds, "labels": ids}


def decode(batch: Batch) -> Run:
    """Work: new tokens behind a cache that every model fills once."""
    caches: dict[int, Any] = {}

    @torch.no_grad()
    def run(model: LlamaForCausalLM) -> None:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        if id(model) not in caches:
            inputs = inputs if hasattr(model, "mod_config") else _without_kinds(inputs)
            caches[id(model)] = model.eval()(**inputs, logits_to_keep=1).past_key_values
        cache, mask = caches[id(model)], batch["attention_mask"]
        token = torch.full_like(mask[:, :1], 5)
        for _ in range(DECODED):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            model(input_ids=token, attention_mask=mask, past_key_values=cache)
        cache.crop(-DECODED)

    return run


def _without_kinds(batch: Batch) -> Batch:
    return {name: tensor for name, tensor in batch.items() if name != "token_kinds"}


def peak_bytes(model: LlamaForCausalLM, run: Run) -> int:
    """What the work allocates at its peak over what is there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(model)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def counted(model: LlamaForCausalLM, run: Run) -> int:
    """Operations as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run(model)
    return counter.get_total_flops()


def line(name: str, work: str, size: int, dense: LlamaForCausalLM, mod: LlamaForCausalLM) -> str:
    """One line of the table."""
    batch = batch_of(size, SETTINGS[name].images)
    prompt = {key: tensor for key, tensor in batch.items() if key != "labels"}
    run = {"train": training_step(batch), "prefill": prefill(prompt), "decode": decode(batch)}[work]
    timed = side_by_side(dense, mod, run, repeats=PAIRS)
    quarter, _, three_quarters = statistics.quantiles(timed.ratios, n=4)
    memory = peak_bytes(mod, run) / peak_bytes(dense, run)
    operations = "" if work == "decode" else f"{counted(mod, run) / counted(dense, run):.3f}"
    dense_ms, mod_ms = (1000 * statistics.median(side) for side in (timed.dense_s, timed.mod_s))
    return (
        f"| {name} | {work} | {size} | {dense_ms:.1f} | {mod_ms:.1f} | {timed.median_ratio:.3f} "
        f"| {quarter:.3f} to {three_quarters:.3f} | {operations} | {memory:.3f} |"
    )


def lines(only: str) -> Iterator[str]:
    """The table, row by row; rows that do not fit the device are left out by name."""
    for name, setting in SETTINGS.items():
        dense, mod = twins(setting.config)
        for work, sizes in ROWS.items():
            for size in sizes:
                if only not in f"{name}: {work}, batch {size}":
                    continue
                try:
                    yield line(name, work, size, dense, mod)
                except torch.OutOfMemoryError:
                    yield f"| {name} | {work} | {size} | does not fit the device | | | | | |"
                for model in (dense, mod):
                    model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
        del dense, mod
        torch.cuda.empty_cache()


def page(table: Sequence[str], commit: str) -> str:
    """The results as Markdown."""
    return "\n".join(
        [
            "# A 7B decoder, converted, over its dense twin on one GPU",
            "",
            f"The shape of Vicuna-7B in bfloat16, random weights, {TEXT} text tokens, and 1,024 "
            "image tokens as in LLaVA-HR (gamma-MoD: 28 of 32 layers, 34 or 51 % of the image "
            "tokens skipped) or 2,880 as in LLaVA-NeXT (p-MoD: the published decay). `train` is "
            f"one forward and backward, `decode` {DECODED} tokens behind the prompt. Medians of "
            f"{PAIRS} alternating pairs after two warm-ups; memory is what the work allocates at "
            "its peak beside the weights. Operations are those torch counts.",
            "",
            "| model | work | batch | dense, ms | MoD, ms | MoD / dense | middle half "
            "| operations | peak memory |",
            "|---|---|---|---|---|---|---|---|---|",
            *table,
            "",
            "```",
            "python benchmarks/mod_gpu.py --out docs/results/mod-gpu.md",
            "```",
            "",
            f"Commit {commit}, {datetime.now(UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}, "
            f"torch {torch.__version__}, transformers' own attention (sdpa).",
            "",
        ]
    )


def main() -> None:
    """Run the rows; the page grows row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--commit", help="where this is no git checkout")
    given = parser.parse_args()
    git = ["git", "describe", "--always", "--dirty"]
    commit = given.commit or subprocess.check_output(git, text=True).strip()
    table: list[str] = []
    for row in lines(given.only):
        table.append(row)
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        if given.out:
            given.out.write_text(page(table, commit))


if __name__ == "__main__":
    main()
