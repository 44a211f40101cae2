"""Time and memory of a Mixture-of-Depths decoder over its dense twin's, side by side.

    OMP_NUM_THREADS=2 python benchmarks/mod.py --out docs/results/mod.md
    OMP_NUM_THREADS=2 python benchmarks/mod.py --only "prefill, batch 4"

A random Llama-shaped decoder (hidden 512, 8 layers, 8 heads, intermediate 1376), 1,024 image
and 64 text tokens, fp32. Dense and converted runs alternate; a row's figure is the median of the
pairs' ratios, and stands beside the ratios of operations: by the papers' closed form (full
attention), and as torch counts them. Only ratios of one run mean anything.
"""

import argparse
import copy
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.evaluation import DecoderShape, decoder_flops, kv_cache_bytes
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert
from workloads.mod.routing import routed_count

HIDDEN, LAYERS, INTERMEDIATE, VOCABULARY = 512, 8, 1376, 1000
IMAGE, TEXT = 1024, 64
DECODED = 128
WARM_UPS, PAIRS, SECONDS = 2, 5, 25.0

Batch = dict[str, Tensor]


def gamma(layers: Sequence[int], capacity: float) -> MoDConfig:
    """gamma-MoD with images routable, and the best tokens at inference too."""
    config = MoDConfig.gamma(layers=layers, capacity_ratio=capacity, masked="image-only")
    return replace(config, inference="topk")


def p_mod(layers: Sequence[int], capacity: float) -> MoDConfig:
    """p-MoD at one capacity."""
    plain = MoDConfig.p_mod(LAYERS)
    return replace(plain, layers=tuple(layers), capacities=(capacity,) * len(layers))


SEVEN = tuple(range(1, LAYERS))

CONFIGS: dict[str, MoDConfig] = {
    "gamma": gamma(SEVEN, 0.5),
    "p_mod": p_mod(SEVEN, 0.5),
    "gamma, nothing skipped": gamma(SEVEN, 1.0),
    "p_mod, nothing skipped": p_mod(SEVEN, 1.0),
    "gamma, layers of the release": gamma((3, 4, 5, 6), 0.5),
    "p_mod, decay of the release": MoDConfig.p_mod(LAYERS),
}

RELEASED = {
    ("gamma, layers of the release", "train"): "0.771 to 0.785",
    ("p_mod, decay of the release", "train"): "0.588 to 0.590",
    ("p_mod, decay of the release", "prefill"): "0.593 to 0.618",
    ("gamma, nothing skipped", "prefill"): "1.022 to 1.031",
}
"""Ratios of the authors' code on this shape and machine kind, batch 1, measured apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    config: str
    work: str
    batch: int

    def __str__(self) -> str:
        return f"{self.config}: {self.work}, batch {self.batch}"


def rows() -> Iterator[Row]:
    """The table, row by row."""
    for config in CONFIGS:
        yield Row(config, "train", 1)
        yield Row(config, "prefill", 1)
    for config in ("gamma", "p_mod"):
        yield Row(config, "train", 4)
        yield Row(config, "prefill", 4)
        yield Row(config, "prefill", 16)
        yield Row(config, "memory", 1)
    for size in (1, 4, 16):
        yield Row("gamma", "decode", size)


def twins(config: MoDConfig) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """A dense decoder and its converted copy, with routers that part the tokens."""
    torch.manual_seed(0)
    dense = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            num_key_value_heads=8,
            intermediate_size=INTERMEDIATE,
            vocab_size=VOCABULARY,
            max_position_embeddings=4096,
        )
    )
    dense.config.image_token_id = VOCABULARY - 1
    mod = convert(copy.deepcopy(dense), config)
    for name, parameter in mod.named_parameters():
        if "mod_router" in name:
            nn.init.normal_(parameter, std=0.02)
    return dense, mod


def batch_of(size: int) -> Batch:
    """Rows of system text, an image and a question."""
    ids = torch.randint(VOCABULARY - 1, (size, IMAGE + TEXT))
    kinds = torch.full(ids.shape, int(TokenKind.QUESTION))
    kinds[:, 10 : 10 + IMAGE] = TokenKind.IMAGE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_kinds": kinds}


def without_kinds(inputs: Batch) -> Batch:
    """What a dense model takes."""
    return {name: tensor for name, tensor in inputs.items() if name != "token_kinds"}


def train(model: nn.Module, inputs: Batch) -> float:
    """Seconds of one forward and backward."""
    model.train().zero_grad(set_to_none=True)
    start = time.perf_counter()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    return time.perf_counter() - start


@torch.no_grad()
def prefill(model: nn.Module, inputs: Batch) -> float:
    """Seconds of one forward that fills a cache."""
    model.eval()
    start = time.perf_counter()
    model(**inputs, use_cache=True)
    return time.perf_counter() - start


@torch.no_grad()
def decode(model: nn.Module, inputs: Batch) -> float:
    """Seconds for new tokens behind a prompt that is not timed."""
    mask = inputs["attention_mask"]
    outputs = model.eval()(**inputs, use_cache=True, logits_to_keep=1)
    start = time.perf_counter()
    for _ in range(DECODED):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        token = outputs.logits[:, -1].argmax(-1, keepdim=True)
        outputs = model(
            input_ids=token, attention_mask=mask, past_key_values=outputs.past_key_values
        )
    return time.perf_counter() - start


WORK: dict[str, Callable[[nn.Module, Batch], float]] = {
    "train": train,
    "prefill": prefill,
    "decode": decode,
}


def kept(config: MoDConfig) -> list[int]:
    """Tokens that each layer computes of one row."""
    counts = [IMAGE + TEXT] * LAYERS
    for layer, capacity in zip(config.layers, config.capacities, strict=True):
        counts[layer] = TEXT + routed_count(IMAGE, capacity, config.rounding)
    return counts


def counted_ratio(dense: nn.Module, mod: nn.Module) -> float:
    """Operations as torch counts them: on a CPU it leaves out what attention multiplies."""
    inputs, counts = batch_of(1), []
    for model, given in ((dense, without_kinds(inputs)), (mod, inputs)):
        with FlopCounterMode(display=False) as counter:
            prefill(model, given)
        counts.append(counter.get_total_flops())
    return counts[1] / counts[0]


def closed_ratio(config: MoDConfig, dense: LlamaForCausalLM) -> float:
    """Operations by the papers' closed form, full attention and head included."""
    shape, head = DecoderShape.of(dense), 2 * (IMAGE + TEXT) * HIDDEN * VOCABULARY
    whole = decoder_flops([IMAGE + TEXT] * LAYERS, shape) + head
    return (decoder_flops(kept(config), shape) + head) / whole


@torch.no_grad()
def check_cache(config: MoDConfig, dense: LlamaForCausalLM, mod: nn.Module) -> None:
    """The cache holds exactly the bytes of the closed form."""
    cache = mod.eval()(**batch_of(2), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    promised = 2 * kv_cache_bytes(kept(config), DecoderShape.of(dense))
    if held != promised:
        raise SystemExit(f"the KV cache holds {held} bytes, by closed form {promised}")


def alternate(dense: Callable[[], float], mod: Callable[[], float]) -> list[float]:
    """Ratios of neighbouring runs: at least ``PAIRS`` of them, and as many as fit ``SECONDS``."""
    ratios: list[float] = []
    end = math.inf
    while len(ratios) < WARM_UPS + PAIRS or time.perf_counter() < end:
        if len(ratios) == WARM_UPS:
            end = time.perf_counter() + SECONDS
        dense_s = dense()
        ratios.append(mod() / dense_s)
    return ratios[WARM_UPS:]


def compare(row: Row) -> str:
    """One line of the table."""
    config = CONFIGS[row.config]
    dense, mod = twins(config)
    if row.work == "memory":
        first, second = (peak_bytes(row.config, is_mod) for is_mod in (False, True))
        ratios = [second / first]
    else:
        check_cache(config, dense, mod)
        inputs = batch_of(row.batch)
        ratios = alternate(
            lambda: WORK[row.work](dense, without_kinds(inputs)),
            lambda: WORK[row.work](mod, inputs),
        )
    ratio = statistics.median(ratios)
    operations = " | | "
    if row.work != "decode":
        counted = counted_ratio(dense, mod)
        closed = closed_ratio(config, dense)
        operations = f"{closed:.3f} | {counted:.3f} | {ratio / counted:.3f}"
    spread = ""
    if len(ratios) > 1:
        quarter, _, three_quarters = statistics.quantiles(ratios, n=4)
        spread = f"{quarter:.3f} to {three_quarters:.3f} ({len(ratios)})"
    return (
        f"| {row.config} | {row.work} | {row.batch} | {ratio:.3f} | {spread} "
        f"| {operations} | {RELEASED.get((row.config, row.work), '')} |"
    )


def peak_bytes(name: str, is_mod: bool) -> int:
    """What a training step adds to a fresh process's peak of resident memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (name, is_mod))


def _peak_bytes(name: str, is_mod: bool) -> int:
    model = twins(CONFIGS[name])[is_mod]
    inputs = batch_of(1) if is_mod else without_kinds(batch_of(1))
    before = _peak_of_this_process()
    train(model, inputs)
    return _peak_of_this_process() - before


def _peak_of_this_process() -> int:
    """Bytes; ``getrusage`` would start from the peak of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def page(lines: Sequence[str]) -> str:
    """The results as Markdown."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return "\n".join(
        [
            "# Mixture-of-Depths decoder over its dense twin",
            "",
            f"Llama-shaped, hidden {HIDDEN}, {LAYERS} layers, 8 heads, intermediate "
            f"{INTERMEDIATE}, {IMAGE} image and {TEXT} text tokens, fp32; random weights. "
            f"`train` is one forward and backward, `decode` {DECODED} tokens behind the prompt, "
            "`memory` the peak that a training step adds. Medians of the ratios of alternating "
            f"pairs after {WARM_UPS} warm-ups, with the middle half of the ratios and their number "
            "beside them; the last column is what the "
            "authors' code reached on this shape. Operations are those of a prefill, by the "
            "papers' closed form with full attention, and as torch counts them, which on a CPU "
            "leaves out what attention multiplies. Before every row the bytes of the KV cache were "
            "compared with the closed form: they are equal.",
            "",
            "| layers and capacities | work | batch | MoD / dense | middle half (pairs) "
            "| operations, closed form | counted | ratio over counted | released code |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
            "```",
            "OMP_NUM_THREADS=2 python benchmarks/mod.py --out docs/results/mod.md",
            "```",
            "",
            f"Commit {commit}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores "
            f"({platform.machine()}), no GPU, torch {torch.__version__}.",
            "",
        ]
    )


def main() -> None:
    """Run the rows; the page grows row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    given = parser.parse_args()
    lines = []
    for row in rows():
        if given.only in str(row):
            lines.append(compare(row))
            sys.stdout.write(f"{lines[-1]}\n")
            sys.stdout.flush()
            if given.out:
                given.out.write_text(page(lines))


if __name__ == "__main__":
    main()
