"""Tokens per second and time to first token of `gammaray serve`, dense twin beside converted.

    python benchmarks/serving.py --out docs/results/serving.md
    python benchmarks/serving.py --dense DIR --converted DIR --gpus 1
    python benchmarks/serving.py --rounds 1 --hidden 96 --pixels 64 --clients 1 4

Both twins are served, each by a process of its own with one replica, and take turns: in a round as
many clients as stand in the row each send one streaming request at the same time, first to one
twin, then to the other. Two rounds warm up; figures are medians, ratios are medians of the rounds'
ratios. Without folders, a random Llava (576 image tokens, 8 decoder layers) and its p-MoD twin are
served: what they say means nothing, how long it takes does.
"""

import argparse
import base64
import copy
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from workloads.mod import MoDConfig, convert
from workloads.model_folder import save_model_folder
from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer

ROOT = Path(__file__).parents[1]
MODEL = "model"
WARM_UPS = 2
QUESTION = "which digit is in the middle of the picture ?"
LAYERS = 8


@dataclass(frozen=True, slots=True)
class Round:
    """What one twin did with the requests of one round."""

    tokens_per_s: float
    first_token_s: float
    """Median over the clients."""
    skip: float | None


def main() -> None:
    """Measure and write the page."""
    args = _arguments()
    rows: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch, ExitStack() as stack:
        folders = (args.dense, args.converted)
        if None in folders:
            folders = random_twins(Path(scratch), args.hidden, args.pixels)
        dense, converted = (stack.enter_context(served(folder, args)) for folder in folders)
        for clients in args.clients:
            rows.append(compare(dense, converted, clients, args))
            sys.stdout.write(rows[-1] + "\n")
            sys.stdout.flush()
    if args.out is not None:
        args.out.write_text(page(rows, args))


def random_twins(folder: Path, hidden: int, pixels: int) -> tuple[Path, Path]:
    """A dense Llava with random weights and its p-MoD twin."""
    torch.manual_seed(0)
    patch = max(8, pixels // 24)
    tokenizer = train_tokenizer([QUESTION], vocabulary_size=300)
    processor = build_processor(tokenizer, image_pixels=pixels, patch_pixels=patch)
    sizes = Architecture(
        image_pixels=pixels,
        patch_pixels=patch,
        hidden=hidden,
        intermediate=hidden * 43 // 16,
        layers=LAYERS,
        heads=8,
    )
    dense = build_model(sizes, processor).eval()
    with torch.no_grad():
        # Answers shall end by their limit alone.
        dense.get_output_embeddings().weight[tokenizer.eos_token_id] = 0.0
    converted = convert(copy.deepcopy(dense), MoDConfig.p_mod(LAYERS))
    for name, model in (("dense", dense), ("converted", converted)):
        save_model_folder(model, processor, folder / name)
    return folder / "dense", folder / "converted"


@contextmanager
def served(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """The address of a server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator.cli", "serve", str(folder), "--json"]
    command += ["--name", MODEL, "--port", str(port), "--max-batch", str(max(args.clients))]
    command += ["--cpus", str(args.cpus), "--gpus", str(args.gpus), "--batch-wait", "0.02"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.rstrip() == "}":
                break
        else:
            raise SystemExit(f"{folder} could not be served")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


def compare(dense: str, converted: str, clients: int, args: argparse.Namespace) -> str:
    """One line of the table."""
    pairs = [
        (one_round(dense, clients, args.tokens), one_round(converted, clients, args.tokens))
        for _ in range(WARM_UPS + args.rounds)
    ][WARM_UPS:]
    speeds = [[each.tokens_per_s for each in side] for side in zip(*pairs, strict=True)]
    firsts = [[each.first_token_s for each in side] for side in zip(*pairs, strict=True)]
    skip = pairs[-1][1].skip
    cells = [
        str(clients),
        *(f"{statistics.median(side):.1f}" for side in speeds),
        f"× {_ratio(speeds):.2f}",
        *(f"{1000 * statistics.median(side):.0f} ms" for side in firsts),
        f"× {_ratio(firsts):.2f}",
        "" if skip is None else f"{skip:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(sides: Sequence[Sequence[float]]) -> float:
    dense, converted = sides
    return statistics.median(b / a for a, b in zip(dense, converted, strict=True))


def one_round(address: str, clients: int, tokens: int) -> Round:
    """As many requests at the same time as there are clients."""
    bodies = [body_of(client, tokens) for client in range(clients)]
    start_s = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda body: ask(address, body), bodies))
    passed_s = time.perf_counter() - start_s
    generated = sum(last["usage"]["completion_tokens"] for _, last in answers)
    return Round(
        generated / passed_s,
        statistics.median(first_s for first_s, _ in answers),
        answers[0][1]["gammaray"]["skip"],
    )


def ask(address: str, body: bytes) -> tuple[float, Any]:
    """Seconds to the first text, and the chunk with the usage."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, headers)
    start_s = time.perf_counter()
    first_s, last = None, None
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            text = line.decode().strip().removeprefix("data: ")
            if text and text != "[DONE]":
                last = json.loads(text)
                has_text = any(choice["delta"].get("content") for choice in last["choices"])
                if first_s is None and has_text:
                    first_s = time.perf_counter() - start_s
    # Tokens may have no text, of special kinds for instance.
    return time.perf_counter() - start_s if first_s is None else first_s, last


def body_of(client: int, tokens: int) -> bytes:
    """The request of one client, with an image of its own."""
    encoded = io.BytesIO()
    Image.effect_noise((336, 336), 20 + client).save(encoded, "PNG")
    url = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": QUESTION},
    ]
    document = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(document).encode()


def page(rows: Sequence[str], args: argparse.Namespace) -> str:
    """The document."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    what = (
        f"random Llava, hidden {args.hidden}, {LAYERS} layers, images of {args.pixels} pixels, and "
        "its p-MoD twin"
        if args.dense is None
        else "the folders that were given"
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return "\n".join(
        [
            "# Serving: dense twin beside converted",
            "",
            "```",
            f"python benchmarks/serving.py {' '.join(sys.argv[1:])}",
            "```",
            "",
            f"Commit {commit.strip()}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores "
            f"({platform.machine()}), {gpu}, torch {torch.__version__}, load "
            f"{os.getloadavg()[0]:.1f} at the end. Served: {what}; {args.tokens} tokens an answer, "
            f"{args.rounds} rounds.",
            "",
            "| clients | tokens/s, dense | converted | ratio | first token, dense | converted "
            "| ratio | measured skip |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
            "",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=Path, help="a folder to serve in place of a random model")
    parser.add_argument("--converted", type=Path, help="its converted twin")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--pixels", type=int, default=384)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpus", type=float, default=1.0, help="of each server's replica")
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
