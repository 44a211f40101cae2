"""Time of a Mixture-of-Depths decoder over its dense twin's, side by side in one process.

    OMP_NUM_THREADS=2 python benchmarks/mod.py
    OMP_NUM_THREADS=2 python benchmarks/mod.py --methods gamma --work train --batches 16

A random Llama-shaped decoder (hidden 512, 8 layers, 8 heads, intermediate 1376), 1,024 image
and 64 text tokens, fp32. Dense and converted runs alternate; the medians' ratio is divided by
the ratio of operations (matrix products and full attention, as in the papers' closed form).
Only ratios of one run mean anything; the machine has to be otherwise idle.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert

HIDDEN, LAYERS, INTERMEDIATE, VOCABULARY = 512, 8, 1376, 1000
IMAGE, TEXT = 1024, 64
MOD_LAYERS = tuple(range(1, LAYERS))
DECODED = 32
WARM_UPS = 2


def configuration(method: str, capacity: float) -> MoDConfig:
    """Seven layers at one capacity, images routable, the best tokens at inference too."""
    capacities = (capacity,) * len(MOD_LAYERS)
    if method == "gamma":
        config = MoDConfig.gamma(layers=MOD_LAYERS, capacity_ratio=capacity, masked="image-only")
        return replace(config, inference="topk")
    return replace(MoDConfig.p_mod(LAYERS), layers=MOD_LAYERS, capacities=capacities)


def twins(method: str, capacity: float) -> tuple[nn.Module, nn.Module]:
    """A dense decoder and its converted copy, with routers that part the tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=INTERMEDIATE,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
    )
    dense = LlamaForCausalLM(config)
    dense.config.image_token_id = VOCABULARY - 1
    mod = convert(copy.deepcopy(dense), configuration(method, capacity))
    for name, parameter in mod.named_parameters():
        if "mod_router" in name:
            nn.init.normal_(parameter, std=0.02)
    return dense, mod


def batch_of(size: int) -> dict[str, Tensor]:
    """Rows of system text, an image and a question."""
    ids = torch.randint(VOCABULARY - 1, (size, IMAGE + TEXT))
    kinds = torch.full(ids.shape, int(TokenKind.QUESTION))
    kinds[:, 10 : 10 + IMAGE] = TokenKind.IMAGE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_kinds": kinds}


def train(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """One forward and backward."""
    model.train().zero_grad(set_to_none=True)
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()


@torch.no_grad()
def prefill(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """One forward that fills a cache."""
    model.eval()(**inputs, use_cache=True)


@torch.no_grad()
def decode(model: nn.Module, inputs: dict[str, Tensor]) -> float:
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


WORK: dict[str, Callable[[nn.Module, dict[str, Tensor]], float | None]] = {
    "train": train,
    "prefill": prefill,
    "decode": decode,
}


def seconds(run: Callable[[], float | None]) -> float:
    """Time of a run, its own measure if it has one."""
    start = time.perf_counter()
    measured = run()
    return time.perf_counter() - start if measured is None else measured


def layer_operations(tokens: float) -> float:
    """Multiply-adds times two of one layer on ``tokens`` tokens."""
    products = 2 * tokens * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
    return products + 4 * tokens**2 * HIDDEN


def operations_ratio(capacity: float) -> float:
    """Operations of the converted decoder over the dense one's, head included."""
    head = 2 * (IMAGE + TEXT) * HIDDEN * VOCABULARY
    whole, kept = layer_operations(IMAGE + TEXT), layer_operations(TEXT + IMAGE * capacity)
    dense_layers = LAYERS - len(MOD_LAYERS)
    return (dense_layers * whole + len(MOD_LAYERS) * kept + head) / (LAYERS * whole + head)


def compare(method: str, work: str, size: int, capacity: float, repeats: int) -> str:
    """One row of the table."""
    dense, mod = twins(method, capacity)
    inputs = batch_of(size)
    plain = {name: tensor for name, tensor in inputs.items() if name != "token_kinds"}
    pairs = []
    for repeat in range(repeats + WARM_UPS):
        pair = (
            seconds(lambda: WORK[work](dense, plain)),
            seconds(lambda: WORK[work](mod, inputs)),
        )
        if repeat >= WARM_UPS:
            pairs.append(pair)
    dense_s, mod_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio, operations = mod_s / dense_s, operations_ratio(capacity)
    per_operation = "-" if work == "decode" else f"{ratio / operations:.3f}"
    return (
        f"| {method} | {work} | {size} | {capacity} | {dense_s:.3f} | {mod_s:.3f} "
        f"| {ratio:.3f} | {operations:.3f} | {per_operation} |"
    )


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["gamma", "p_mod"])
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--capacities", nargs="+", type=float, default=[0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    say("| method | work | batch | capacity | dense s | MoD s | ratio | operations | by op. |")
    say("|---|---|---|---|---|---|---|---|---|")
    for method in given.methods:
        for work in given.work:
            for size in given.batches:
                for capacity in given.capacities:
                    say(compare(method, work, size, capacity, given.repeats))


if __name__ == "__main__":
    main()
