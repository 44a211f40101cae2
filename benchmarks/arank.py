"""ARank beside the released procedure: same model, same samples, same threads, one process.

    OMP_NUM_THREADS=2 python benchmarks/arank.py
    OMP_NUM_THREADS=2 python benchmarks/arank.py --rows memory workers

Released: a forward that keeps every attention map, then `torch.linalg.matrix_rank` per layer and
head in a loop. Ours: `arank_samples`. The integers have to be equal, or the script fails. Runs
alternate, after warm-ups; a ratio is the median of the ratios of neighbours. The model is a random
Llama (hidden 512, 8 heads); ``sink`` lets every token attend mostly to the first one, as trained
models do, which is what makes ranks low.
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.arank import arank_samples, give_back_freed_memory

HIDDEN, HEADS, VOCABULARY, FIRST = 512, 8, 1000, 1
WARM_UPS = 2


def decoder(layers: int, *, sink: float, std: float = 0.02) -> LlamaForCausalLM:
    """A random decoder whose logits towards the first token are raised by about ``sink``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=1376,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    size = HIDDEN // HEADS
    slowest = size // 2 - 1  # the rotary pair that hardly turns within a few thousand tokens
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight.normal_()
        embedding[:, 0] = 8.0
        embedding[:, 1] = 0.0
        embedding[FIRST, 1] = 8.0
        # After the norm both marks are about 8 / sqrt(1 + 2 * 64 / 512), and 1 / sqrt(size) scales.
        gain = math.sqrt(max(sink, 0.0) * math.sqrt(size)) / (8.0 / math.sqrt(1.25))
        for layer in model.model.layers:
            attention = layer.self_attn
            for projection, mark in ((attention.q_proj, 0), (attention.k_proj, 1)):
                projection.weight.normal_(std=std)
                projection.weight[:, :2] = 0.0
                projection.weight[slowest::size, mark] = gain
    return model


def sample(tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """One random sequence behind the first token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (1, tokens), generator=generator)
    ids[0, 0] = FIRST
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def released(
    model: LlamaForCausalLM, batch: dict[str, Tensor], ranked: int | None = None
) -> Tensor:
    """The released procedure; ``ranked`` limits the layers that are ranked, for memory only."""
    model.set_attn_implementation("eager")
    maps = model(**batch, output_attentions=True, use_cache=False).attentions
    ranks = []
    for layer in maps[:ranked]:
        lower = torch.tril(torch.ones_like(layer[0])) * layer[0]
        ranks.append([_one(head) for head in lower])
    model.set_attn_implementation("sdpa")
    return torch.tensor(ranks)[None]


def _one(head: Tensor) -> int:
    head.fill_diagonal_(0)
    return int(torch.linalg.matrix_rank(head.float()))


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed(name: str, sink: float, std: float, tokens: int, repeats: int) -> str:
    """A row: both sides on one layer, alternating."""
    model, batch = decoder(1, sink=sink, std=std), sample(tokens)
    ours, theirs = arank_samples(model, batch), released(model, batch)
    if not ours.equal(theirs):
        raise SystemExit(f"{name}: ranks differ, {ours.tolist()} and {theirs.tolist()}")
    pairs = []
    for repeat in range(repeats + WARM_UPS - 1):
        pair = (
            seconds(lambda: released(model, batch)),
            seconds(lambda: arank_samples(model, batch)),
        )
        if repeat >= WARM_UPS - 1:
            pairs.append(pair)
    theirs_s, ours_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    mean = float(ours.double().mean())
    return (
        f"| {name} | {tokens} | {mean:.0f} ({mean / tokens:.0%}) | {theirs_s:.2f} | {ours_s:.2f} "
        f"| {ratio:.2f} |"
    )


def cost(tokens: int) -> str:
    """A row: ours alone, since the released procedure takes minutes for 4,096 tokens."""
    model, batch = decoder(1, sink=7.0), sample(tokens)
    ranks = arank_samples(model, batch)
    times = [seconds(lambda: arank_samples(model, batch)) for _ in range(3)]
    mean = float(ranks.double().mean())
    share = f"{mean:.0f} ({mean / tokens:.0%})"
    return f"| low rank, one layer | {tokens} | {share} | | {statistics.median(times):.2f} | |"


def memory_mib(side: str, *, gives_back: bool) -> float:
    """Peak memory over that of the loaded model, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(side, gives_back, sender))
    process.start()
    value = float(receiver.recv())
    process.join()
    return value


def _measure_memory(side: str, gives_back: bool, sender: object) -> None:
    if gives_back:
        give_back_freed_memory()
    model = decoder(32, sink=6.0)
    released(model, sample(64))
    arank_samples(model, sample(64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "released":
        released(model, sample(1088), ranked=1)
    else:
        arank_samples(model, sample(1088))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send((after - before) / 1024)  # type: ignore[attr-defined]


def memory(*, gives_back: bool) -> str:
    """A row: 32 layers, 1,088 tokens; freed memory given back as in a worker, or glibc's way."""
    theirs = memory_mib("released", gives_back=gives_back)
    ours = memory_mib("ours", gives_back=gives_back)
    name = "as in a worker" if gives_back else "glibc's defaults"
    ratio = theirs / ours
    return f"| peak MiB, 32 layers, {name} | 1088 | | {theirs:.0f} | {ours:.0f} | {ratio:.1f} |"


def workers(samples: int) -> str:
    """A row: two Ray workers beside one, on the embedded model and data, loading left out."""
    from orchestrator.ranking import Workforce, draw_samples, rank_samples
    from orchestrator.ray_connection import connect
    from workloads.arank import RankOptions
    from workloads.data import build_digits_vqa, read_llava, write_shard
    from workloads.models import resolve_model

    connect(None, uses_gpus=False)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        build_digits_vqa(root, seed=0, train_scenes=samples, eval_scenes=1, questions_per_scene=2)
        shard = root / "data.arrow"
        write_shard(read_llava(root / "train.json", root), root, shard)
        order = draw_samples(shard, samples, seed=0)
        times = {}
        for count in (1, 2):
            clock = _FromFirstSample(count)
            rank_samples(
                resolve_model("digits"),
                shard,
                order,
                options=RankOptions(),
                workforce=Workforce(workers=count),
                reporter=clock,
            )
            times[count] = clock.seconds_per_sample
    ratio = times[1] / times[2]
    return (
        f"| one worker, two workers, s/sample | | | {times[1]:.4f} | {times[2]:.4f} | {ratio:.2f} |"
    )


class _FromFirstSample:
    """A reporter that times all samples after every worker has given its first."""

    def __init__(self, workers: int) -> None:
        self._skip, self._start, self._end, self._done = 4 * workers, 0.0, 0.0, 0

    @property
    def seconds_per_sample(self) -> float:
        return (self._end - self._start) / (self._done - self._skip)

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self._done, self._end = done, time.perf_counter()
        if done == self._skip:
            self._start = self._end

    def metrics(self, step: int, values: object) -> None:
        """There are none."""

    def message(self, text: str) -> None:
        """Nothing to time."""


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ["low", "full", "lengths", "memory", "workers"]
    parser.add_argument("--rows", nargs="+", choices=known, default=known)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--samples", type=int, default=400, help="of the row workers")
    given = parser.parse_args()
    say("| maps | tokens | mean rank | released s | ours s | ratio |")
    say("|---|---|---|---|---|---|")
    rows: dict[str, Callable[[], list[str]]] = {
        "low": lambda: [speed("low rank", 7.0, 0.02, 1088, given.repeats)],
        "full": lambda: [speed("nearly full rank", 0.0, 0.02, 1088, given.repeats)],
        "lengths": lambda: [cost(tokens) for tokens in (1024, 2048, 4096)],
        "memory": lambda: [memory(gives_back=way) for way in (True, False)],
        "workers": lambda: [workers(given.samples)],
    }
    for name in given.rows:
        for line in rows[name]():
            say(line)


if __name__ == "__main__":
    main()
