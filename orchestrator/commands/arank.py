"""Measure which layers of a model are redundant, and say which to convert and why."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.commands.output import add_json_flag, console_for, print_json
from orchestrator.durable import Observer
from orchestrator.errors import PreflightError
from orchestrator.progress import ProgressBars, ProgressLines
from orchestrator.ray_connection import connect
from orchestrator.recipe import LayerChoice

POLICIES = get_args(LayerChoice.model_fields["policy"].annotation)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="a local Hugging Face folder, or digits")
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help="LLaVA-format JSON, a shard that `gammaray data build` wrote, or digits",
    )
    parser.add_argument(
        "--images", type=Path, help="folder image paths start from; default: DATA's"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep ranks, summary and pictures")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--samples", type=int, default=50)
    measuring.add_argument("--seed", type=int, default=0, help="of the samples that are drawn")
    measuring.add_argument("--map", choices=("softmax", "logits"), default="softmax")
    measuring.add_argument("--block", choices=("all", "image-image", "text-image"), default="all")
    measuring.add_argument("--keep-diagonal", action="store_true")
    measuring.add_argument("--tolerance", type=float, help="relative; default: as matrix_rank")
    measuring.add_argument(
        "--stop-unchanged",
        type=int,
        metavar="N",
        help="stop once the chosen layers have not changed for N samples",
    )
    _add_policy(parser.add_argument_group("choice"))
    hardware = parser.add_argument_group("hardware")
    hardware.add_argument("--workers", type=int, default=2)
    hardware.add_argument("--cpus", type=float, default=1.0, help="of one worker")
    hardware.add_argument("--gpus", type=float, default=0.0, help="of one worker")
    hardware.add_argument("--address", help="Ray cluster to use (default: $RAY_ADDRESS, or here)")
    add_json_flag(parser)


def _add_policy(choice: Any) -> None:  # noqa: ANN401 - argparse's group has no public name
    choice.add_argument("--policy", choices=POLICIES, default="fraction")
    choice.add_argument("--fraction", type=float, default=0.9)
    choice.add_argument("--threshold", type=float)
    choice.add_argument("--relative-threshold", type=float, help="a share of the sequence length")
    choice.add_argument("--count", type=int)
    choice.add_argument("--layers", type=int, nargs="+", help="for the policy explicit")
    choice.add_argument("--heuristic", help="for the policy release")
    choice.add_argument("--always-dense", type=int, nargs="*", default=[0], metavar="LAYER")
    choice.add_argument(
        "--mean-capacity", type=float, help="also share this mean capacity in proportion to ARank"
    )


def execute(args: argparse.Namespace) -> int:
    """Measure, choose and show.

    Raises:
        ARankError: If the samples cannot be measured or no layer would be chosen.
        DataError: If the data cannot be read.
        ModelError: If the model cannot be loaded.
        PreflightError: If the output folder cannot be written.
    """
    from orchestrator.ranking import StopRule, Workforce, draw_samples, rank_samples
    from orchestrator.stages.arank import write_pictures, write_ranking
    from workloads.arank import RankOptions, capacities_by_rank, select_layers
    from workloads.models import reads_images, resolve_model

    options = RankOptions(
        map=args.map,
        block=args.block,
        zero_diagonal=not args.keep_diagonal,
        tolerance=args.tolerance,
    )
    workforce = Workforce(workers=args.workers, cpus=args.cpus, gpus=args.gpus)
    policy = _policy(args)
    stop = _stop(args, StopRule, policy)
    model = resolve_model(args.model)
    if args.out is not None:
        _make(args.out)
    console = console_for(args)
    with tempfile.TemporaryDirectory() as scratch:
        shard = _shard(args, Path(scratch))
        order = draw_samples(shard, args.samples, args.seed, needs_images=reads_images(model))
        connect(args.address or args.environment.get("RAY_ADDRESS"), uses_gpus=args.gpus > 0)
        with ProgressBars(console) if console.is_terminal else ProgressLines(console) as shown:
            shown.step_started("arank", 1, (f"{len(order)} samples of {args.data}",))
            ranking = rank_samples(
                model,
                shard.absolute(),
                order,
                options=options,
                workforce=workforce,
                reporter=_Told(shown),
                stop=stop,
            )
    profile = ranking.profile
    selection = select_layers(profile, **policy)
    document = {
        "profile": profile.to_json(),
        "selection": selection.to_json(),
        "quarantined": [{"id": bad.id, "reason": bad.reason} for bad in ranking.quarantined],
        "stopped_early": ranking.has_settled,
    }
    if args.mean_capacity is not None:
        shares = capacities_by_rank(profile, selection, args.mean_capacity)
        document["capacities"] = dict(zip(map(str, selection), shares, strict=True))
    if args.out is not None:
        write_ranking(ranking, args.out)
        write_pictures(ranking, args.out)
    if args.json:
        print_json(document)
    else:
        _show(document, console)
    return 0


class _Told:
    """What is reported goes to the bars or lines of a run."""

    def __init__(self, shown: Observer) -> None:
        self._shown = shown

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self._shown.progress("arank", done, total, unit, note)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """There are none."""

    def message(self, text: str) -> None:
        self._shown.message("arank", text)


def _policy(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `select_layers`."""
    names = ("policy", "fraction", "threshold", "relative_threshold", "count", "layers")
    return {name: getattr(args, name) for name in (*names, "heuristic", "always_dense", "seed")}


def _stop(args: argparse.Namespace, rule: Any, policy: dict[str, Any]) -> Any:  # noqa: ANN401 - lazy
    if args.stop_unchanged is None:
        return None
    return rule(unchanged=args.stop_unchanged, policy=policy)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(f"cannot write to {folder}: {error.strerror}") from error


def _shard(args: argparse.Namespace, scratch: Path) -> Path:
    """The data as a shard, built in ``scratch`` if it is not one yet."""
    from workloads.data import build_digits_vqa, read_llava, write_shard

    path = Path(args.data)
    if path.suffix == ".arrow":
        return path
    images = args.images or path.parent
    if args.data == "digits":
        build_digits_vqa(
            scratch, seed=args.seed, train_scenes=args.samples, eval_scenes=1, questions_per_scene=4
        )
        path, images = scratch / "train.json", scratch
    shard = scratch / "data.arrow"
    write_shard(read_llava(path, images), images, shard)
    return shard


def _show(document: dict[str, Any], console: Console) -> None:
    profile, selection = document["profile"], document["selection"]
    table = Table("layer", "ARank", "choice", title=None)
    for layer, reason in enumerate(selection["reasons"]):
        table.add_row(str(layer), f"{profile['mean'][layer]:.2f}", escape(reason))
    console.print(table)
    said = [f"layers {selection['layers']}, from {profile['samples']} samples"]
    shares = document.get("capacities", {})
    said += [f"layer {layer} computes {share:.1%}" for layer, share in shares.items()]
    orders = {f"{n} samples": value for n, value in profile["stability"].items()}
    orders |= {f"task {name}": value for name, value in profile["task_agreement"].items()}
    known = [f"{name} {value:.2f}" for name, value in orders.items() if value is not None]
    said += [f"agreement of layer orders: {', '.join(known)}"] if known else []
    said += [f"warning: {text}" for text in selection["warnings"]]
    said += [f"left out {bad['id']}: {bad['reason']}" for bad in document["quarantined"]]
    for line in said:
        console.print(line, highlight=False, markup=False)
