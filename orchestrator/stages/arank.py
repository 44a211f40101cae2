"""Stage ``arank``: attention ranks of real samples, measured by several Ray workers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.durable import StepContext
from orchestrator.ranking import Ranking, StopRule, Workforce, draw_samples, rank_samples
from workloads.arank import RankOptions, heat_map_png, heat_map_svg, write_profile


def arank(context: StepContext) -> None:
    """Write ``ranks.parquet``, ``arank.json`` and ``arank.svg``; PNGs are a measurement.

    The samples are drawn by seed, and their ranks, which are integers, are merged in the order
    of the draw: any number of workers gives the same bytes.

    Params: ``samples``, ``seed``; optionally ``options`` (`RankOptions`), and ``stop`` with
    ``unchanged`` and ``policy`` (`StopRule`). Settings: those of `Workforce`.

    Raises:
        ARankError: If more samples are asked for than there are, or none can be measured.
    """
    params: Mapping[str, Any] = context.params
    settings: Mapping[str, Any] = context.settings
    shard = context.inputs["data"].path / "train.arrow"
    ranking = rank_samples(
        context.inputs["model"].path / "model",
        shard,
        draw_samples(shard, params["samples"], params["seed"]),
        options=RankOptions.from_json(params.get("options", {})),
        workforce=Workforce(
            **{name: settings[name] for name in Workforce.__slots__ if name in settings}
        ),
        reporter=context.reporter,
        stop=StopRule(**params["stop"]) if params.get("stop") else None,
    )
    write_ranking(ranking, context.output)
    context.measurement.mkdir(parents=True, exist_ok=True)
    write_pictures(ranking, context.measurement)


def write_ranking(ranking: Ranking, folder: Path) -> None:
    """Write the ranks, their summary and the heat map whose bytes depend on the ranks alone."""
    profile = ranking.profile
    write_profile(profile, ranking.ids, folder)
    summary = {
        "profile": profile.to_json(),
        "quarantined": [{"id": bad.id, "reason": bad.reason} for bad in ranking.quarantined],
        "stopped_early": ranking.has_settled,
    }
    (folder / "arank.json").write_text(json.dumps(summary, indent=1, allow_nan=False))
    (folder / "arank.svg").write_text(heat_map_svg(profile, ()))


def write_pictures(ranking: Ranking, folder: Path) -> None:
    """Write the heat maps layer x head and layer x task; their bytes depend on Pillow's version."""
    for by in ("head", "task"):
        (folder / f"arank-{by}.png").write_bytes(heat_map_png(ranking.profile, by))
