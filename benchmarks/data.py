"""The data path beside a lazy loader as LLaVA's, and its memory for a million records.

    OMP_NUM_THREADS=1 python benchmarks/data.py
    OMP_NUM_THREADS=1 python benchmarks/data.py --rows memory --records 100000 1000000

Lazy: one process that keeps the parsed JSON file and, in every epoch, opens a sample's PNG file,
converts it, calls the image processor on it and tokenises its conversation, one sample at a time,
as `LazySupervisedDataset` and its collator do. Ours: a shard is built, every image checked, and
`TrainingBatches` reads it. Both give batches of the same samples from the same processor. Building,
an epoch of ours and one of the other alternate, after warm-ups; a ratio is the median of the
ratios of neighbours, and a build counts by a third: for three epochs.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from orchestrator import dataset
from orchestrator.dataset import build_dataset
from workloads.data import Build, Encoder, TrainingBatches, build_digits_vqa, open_shard
from workloads.data.collate import IGNORED_LABEL
from workloads.models.processor import build_processor, train_tokenizer

EPOCHS, BATCH, WARM_UPS = 3, 16, 2
_BUILDERS = ("process", "ray")


class LazyLoader:
    """LLaVA's way to a batch: everything anew for every sample of every epoch."""

    def __init__(self, records: Path, processor: ProcessorMixin) -> None:
        self._records = json.loads(records.read_text())
        self._folder, self._processor = records.parent, processor

    def epoch(self, seed: int) -> Iterator[dict[str, Tensor]]:
        """Batches of all samples in a random order."""
        order = np.random.default_rng(seed).permutation(len(self._records))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield self._collate([self._sample(index) for index in order[start : start + BATCH]])

    def image(self, index: int) -> Image.Image:
        """One sample's pixels."""
        return Image.open(self._folder / self._records[index]["image"]).convert("RGB")

    def _sample(self, index: int) -> dict[str, Tensor]:
        image_processor, tokenizer = self._processor.image_processor, self._processor.tokenizer
        pixels = image_processor(self.image(index), return_tensors="pt")["pixel_values"][0]
        question, answer = (turn["value"] for turn in self._records[index]["conversations"])
        asked = f"<s><user>{question}<assistant>"
        ids = tokenizer(f"{asked}{answer}</s>", return_tensors="pt")["input_ids"][0]
        labels = ids.clone()
        labels[: len(tokenizer(asked)["input_ids"])] = IGNORED_LABEL
        return {"input_ids": ids, "labels": labels, "pixel_values": pixels}

    def _collate(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        fills = {"input_ids": self._processor.tokenizer.pad_token_id, "labels": IGNORED_LABEL}
        rows = {
            name: torch.nn.utils.rnn.pad_sequence(
                [sample[name] for sample in samples], batch_first=True, padding_value=fill
            )
            for name, fill in fills.items()
        }
        return {**rows, "pixel_values": torch.stack([each["pixel_values"] for each in samples])}


def make_dataset(root: Path, samples: int, pixels: int) -> Path:
    """Questions about scenes, each with a PNG file of its own."""
    build_digits_vqa(root, seed=0, train_scenes=samples, eval_scenes=1, questions_per_scene=1)
    if pixels > 64:
        rng = np.random.default_rng(0)
        for path in sorted((root / "images").glob("train-*.png")):
            _enlarge(path, pixels, rng)
    return root / "train.json"


def _enlarge(path: Path, pixels: int, rng: np.random.Generator) -> None:
    """A colour image with as much in it as a photograph: about 1.5 bytes a pixel as PNG."""
    smooth = Image.open(path).convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 4, (pixels, pixels, 3))
    noisy = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path)


def make_processor(records: Path, pixels: int) -> ProcessorMixin:
    """A tokenizer of the questions, and CLIP's image processing."""
    texts = [turn["value"] for r in json.loads(records.read_text()) for turn in r["conversations"]]
    patch = 8 if pixels == 64 else 14
    return build_processor(train_tokenizer(texts, 384), image_pixels=pixels, patch_pixels=patch)


def seconds(work: Callable[[], object]) -> NDArray[np.float64]:
    """Wall time, and CPU time of all threads of this process."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - start


def speed(samples: int, pixels: int) -> str:
    """A row: build and epochs of both sides, alternating."""
    with tempfile.TemporaryDirectory() as folder:
        records = make_dataset(Path(folder), samples, pixels)
        processor = make_processor(records, pixels)
        encoder, lazy = Encoder(processor), LazyLoader(records, processor)
        build, path = Build(str(records), folder), Path(folder) / "train.arrow"

        def theirs(seed: int, batches: int) -> None:
            for _, _ in zip(range(batches), lazy.epoch(seed), strict=False):
                pass

        def ours(seed: int, batches: int) -> None:
            shard = open_shard(path)
            source = TrainingBatches(
                shard, encoder, global_batch=BATCH, micro_batch=BATCH, seed=seed
            )
            for step in range(batches):
                source.at(step)

        build_dataset(build, path)
        for seed in range(WARM_UPS):
            theirs(seed, 4)
            ours(seed, 4)
        whole, rows = samples // BATCH, []
        for seed in range(EPOCHS):
            built = seconds(lambda: build_dataset(build, path))
            rows.append(
                (
                    seconds(lambda seed=seed: theirs(seed, whole)),
                    built,
                    seconds(lambda seed=seed: ours(seed, whole)),
                )
            )
        shard = open_shard(path)
        decoding = [
            seconds(lambda: [lazy.image(index) for index in range(samples)])
            / seconds(lambda: [shard[i].images[0].convert("RGB") for i in range(samples)])
            for _ in range(EPOCHS)
        ]
        kib = path.stat().st_size / samples / 1024
    lazily, built, read = (np.median(side, axis=0) for side in zip(*rows, strict=True))
    ratios = [
        np.median([lazy_s / (b / EPOCHS + r) for lazy_s, b, r in rows], axis=0),
        np.median([lazy_s / r for lazy_s, _, r in rows], axis=0),
        np.median([EPOCHS * lazy_s / b for lazy_s, b, _ in rows], axis=0),
        np.median(decoding, axis=0),
    ]
    cells = [f"{wall:.2f} ({cpu:.2f})" for wall, cpu in ratios]
    speeds = [
        f"{samples / wall:.0f} ({cpu / samples * 1e3:.2f})" for wall, cpu in (lazily, built, read)
    ]
    return f"| {pixels} x {pixels}, {kib:.0f} KiB | {samples} | {' | '.join(speeds + cells)} |"


def make_records(path: Path, count: int, images: int = 1000) -> None:
    """A JSON list of ``count`` records, every fourth with a tiny image, written as a stream."""
    (path.parent / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(images):
        pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path.parent / "images" / f"{number}.png")
    with path.open("w") as file:
        for number in range(count):
            has_image = number % 4 == 0
            question = f"What is shown in picture {number}?"
            turns = [
                {"from": "human", "value": f"<image>\n{question}" if has_image else question},
                {"from": "gpt", "value": "A grey pattern without a name. " * (number % 9 + 1)},
            ]
            record = {"id": f"record-{number:09d}", "conversations": turns}
            if has_image:
                record["image"] = f"images/{number // 4 % images}.png"
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(record))
        file.write("\n]\n")


class Watch(threading.Thread):
    """Looks at the memory of this process's Ray workers, without what they share."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._is_over = threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        me = psutil.Process()
        while not self._is_over.wait(0.5):
            for process in me.children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        used = process.memory_full_info().uss
                        self.peak_bytes = max(self.peak_bytes, used)
                except psutil.Error:
                    continue

    def stop(self) -> None:
        """End."""
        self._is_over.set()
        self.join()


def _measure(folder: Path, count: int, by_ray: bool, told: "multiprocessing.Queue[str]") -> None:
    """In a process of its own: build the shard of ``count`` records."""
    dataset.RECORDS_HERE = 0 if by_ray else count
    if by_ray:
        from orchestrator.ray_connection import connect

        connect(None, uses_gpus=False)
    before = psutil.Process().memory_info().rss
    watch = Watch()
    watch.start()
    out = folder / "train.arrow"
    build = Build(str(folder / "train.json"), str(folder))
    took = seconds(lambda: build_dataset(build, out))[0]
    watch.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mib = 1 << 20
    files = [out] if out.is_file() else list(out.iterdir())
    size = sum(file.stat().st_size for file in files)
    told.put(
        f"| {'Ray Data' if by_ray else 'one process'} | {count} | {count / took:.0f} | {took:.0f} "
        f"| {before / mib:.0f} | {peak / mib:.0f} | {watch.peak_bytes / mib:.0f} "
        f"| {size / mib:.0f} in {len(files)} |"
    )


def memory(count: int, *, by_ray: bool, folder: Path) -> str:
    """A row: peak memory while the shard of ``count`` records is built."""
    records = folder / "train.json"
    if not records.exists():
        make_records(records, count)
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=_measure, args=(folder, count, by_ray, told))
    process.start()
    row = told.get()
    process.join()
    return row


def show(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=("speed", "memory"), default=["speed"])
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 336])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--built-by", nargs="+", choices=_BUILDERS, default=list(_BUILDERS))
    parser.add_argument("--scratch", help="folder for temporary files")
    args = parser.parse_args()
    tempfile.tempdir = args.scratch
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if "speed" in args.rows:
        show(
            "| images | samples | lazy, samples/s (CPU ms) | build | read "
            "| lazy / (build / 3 + read), time (CPU time) | lazy / read | 3 lazy / build "
            "| lazy / read, decoding only |\n" + "|---" * 9 + "|"
        )
        for pixels in args.pixels:
            show(speed(args.samples, pixels))
    if "memory" in args.rows:
        show(
            "| built by | records | records/s | s | MiB before | peak MiB | largest worker, MiB "
            "| shard, MiB in files |\n" + "|---" * 8 + "|"
        )
        for count in args.records:
            with tempfile.TemporaryDirectory() as folder:
                for builder in args.built_by:
                    show(memory(count, by_ray=builder == "ray", folder=Path(folder)))


if __name__ == "__main__":
    main()
