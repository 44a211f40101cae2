"""Stage ``convert``: the aligned model becomes a Mixture-of-Depths one, and says why there."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from orchestrator.durable import StepContext
from workloads.arank import capacities_by_rank, read_profile, select_layers
from workloads.data import Encoder, TrainingBatches, open_shard
from workloads.mod import MoDConfig, warm_start_routers
from workloads.mod import convert as convert_model
from workloads.model_folder import open_model_folder, save_model_folder

_WARM_START_BATCH = 16
_BY_ARANK = {"gamma": MoDConfig.gamma, "random": MoDConfig.random}


def convert(context: StepContext) -> None:
    """Write ``model/`` with the converted layers, and ``conversion.json`` with the reasons.

    γ-MoD and the random baseline convert the layers that the ARank profile shows redundant;
    p-MoD's layers follow from its ratio decay alone. With ``warm_start`` the first samples of the
    training order show the routers which tokens matter.

    Raises:
        ARankError: If the layer policy cannot be applied to the profile.
        ConversionError: If the model cannot be converted.
    """
    model, processor = open_model_folder(context.inputs["model"].path / "model")
    params: Mapping[str, Any] = context.params
    section = dict(params["mod"])
    # Routers start from random weights: without a seed no two conversions were the same.
    torch.manual_seed(params["seed"])
    samples = section.pop("warm_start", 0)
    method = section.pop("method")
    if method in _BY_ARANK:
        arank = context.inputs["arank"].path
        config, selection = _by_arank(_BY_ARANK[method], arank, section)
    else:
        config, selection = _by_schedule(model.config.get_text_config().num_hidden_layers, section)
    for warning in selection["warnings"]:
        context.reporter.message(f"layer choice: {warning}")
    convert_model(model, config)
    conversion: dict[str, Any] = {"config": config.to_json(), "selection": selection}
    if samples:
        conversion["warm_start_agreement"] = _warm_start(context, model, processor, samples)
    save_model_folder(model, processor, context.output / "model")
    (context.output / "conversion.json").write_text(json.dumps(conversion, indent=1))


def _warm_start(
    context: StepContext, model: PreTrainedModel, processor: ProcessorMixin, samples: int
) -> float:
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    samples -= samples % min(_WARM_START_BATCH, samples)  # whole batches
    agreement = warm_start_routers(model, _training_batches(context, model, processor, samples))
    context.reporter.message(f"routers start from {samples} samples: {agreement:.0%} agreement")
    return agreement


def _training_batches(
    context: StepContext, model: PreTrainedModel, processor: ProcessorMixin, samples: int
) -> Iterator[Mapping[str, Tensor]]:
    size = min(_WARM_START_BATCH, samples)
    params: Mapping[str, Any] = context.params
    batches = TrainingBatches(
        open_shard(context.inputs["data"].path / "train.arrow"),
        Encoder(processor),
        global_batch=size,
        micro_batch=size,
        seed=params["seed"],
    )
    for step in range(samples // size):
        for batch in batches.at(step):
            yield {name: tensor.to(model.device) for name, tensor in batch.items()}
        context.reporter.progress((step + 1) * size, samples, "samples", "warm start")


def _by_arank(
    preset: Callable[..., MoDConfig], arank: Path, section: dict[str, Any]
) -> tuple[MoDConfig, dict[str, Any]]:
    profile = read_profile(arank)
    selection = select_layers(profile, **section.pop("layers"))
    if section.pop("capacities", "equal") == "arank":
        budget = section["capacity_ratio"]
        section["capacity_ratio"] = capacities_by_rank(profile, selection, budget)
    config = preset(layers=selection, arank_digest=profile.digest, **section)
    return config, selection.to_json()


def _by_schedule(num_layers: int, section: dict[str, Any]) -> tuple[MoDConfig, dict[str, Any]]:
    config = MoDConfig.p_mod(num_layers, **section)
    shares = dict(zip(config.layers, config.capacities, strict=True))
    reasons = [
        f"MoD: the ratio decay lets it compute {shares[layer]:.0%} of the routable tokens"
        if layer in shares
        else f"dense: its share in the ratio decay is above {section['max_ratio']:.0%}"
        for layer in range(num_layers)
    ]
    policy = {"policy": "schedule", **section}
    layers = list(config.layers)
    return config, {"layers": layers, "reasons": reasons, "warnings": [], "policy": policy}
