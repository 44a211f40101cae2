"""Stage ``convert``: the aligned model becomes a Mixture-of-Depths one, and says why there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from orchestrator.durable import StepContext
from workloads.arank import read_profile, select_layers
from workloads.mod import MoDConfig
from workloads.mod import convert as convert_model
from workloads.model_folder import open_model_folder, save_model_folder


def convert(context: StepContext) -> None:
    """Write ``model/`` with the converted layers, and ``conversion.json`` with the reasons.

    γ-MoD converts the layers that the ARank profile shows redundant; p-MoD's layers follow from
    its ratio decay alone.

    Raises:
        ARankError: If the layer policy cannot be applied to the profile.
        ConversionError: If the model cannot be converted.
    """
    model, processor = open_model_folder(context.inputs["model"].path / "model")
    params: Mapping[str, Any] = context.params
    section = dict(params["mod"])
    # Routers start from random weights: without a seed no two conversions were the same.
    torch.manual_seed(params["seed"])
    if section.pop("method") == "gamma":
        config, selection = _by_arank(context.inputs["arank"].path, section)
    else:
        config, selection = _by_schedule(model.config.get_text_config().num_hidden_layers, section)
    for warning in selection["warnings"]:
        context.reporter.message(f"layer choice: {warning}")
    save_model_folder(convert_model(model, config), processor, context.output / "model")
    conversion = {"config": config.to_json(), "selection": selection}
    (context.output / "conversion.json").write_text(json.dumps(conversion, indent=1))


def _by_arank(arank: Path, section: dict[str, Any]) -> tuple[MoDConfig, dict[str, Any]]:
    profile = read_profile(arank)
    selection = select_layers(profile, **section.pop("layers"))
    config = MoDConfig.gamma(layers=selection, arank_digest=profile.digest, **section)
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
