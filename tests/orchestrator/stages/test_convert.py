import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.stages.convert import convert
from workloads.arank import ARankProfile, write_profile
from workloads.data import build_digits_vqa, read_llava, write_shard
from workloads.mod import mod_config
from workloads.model_folder import open_model_folder, save_model_folder
from workloads.models import load_model
from workloads.reporting import SilentReporter

GAMMA = {
    "method": "gamma",
    "capacity_ratio": 0.5,
    "layers": {"policy": "lowest", "count": 2, "always_dense": [0]},
}
P_MOD = {"method": "p_mod", "max_ratio": 0.85}

Convert = Callable[..., StepContext]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    save_model_folder(*load_model("digits"), root / "model")
    ranks = np.array([[[9]], [[5]], [[8]], [[4]], [[7]], [[7]], [[7]], [[7]]]).reshape(1, 8, 1)
    write_profile(ARankProfile.from_ranks(ranks, ["place"]), ["a sample"], root)
    build_digits_vqa(root / "raw", seed=0, train_scenes=8, eval_scenes=1, questions_per_scene=2)
    raw = root / "raw"
    write_shard(read_llava(raw / "train.json", raw), raw, root / "train.arrow")
    artifact = Artifact(path=root, measurement=root, digest="0" * 64, key="")
    return {"model": artifact, "arank": artifact, "data": artifact}


@pytest.fixture
def converted(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Convert:
    def run(mod: dict[str, Any], seed: int = 0) -> StepContext:
        root = tmp_path_factory.mktemp("run")
        (root / "output").mkdir()
        context = StepContext(
            run_id="run",
            step="convert",
            key="0" * 64,
            epoch=1,
            attempt=1,
            store=open_store(str(root / "store")),
            params={"seed": seed, "mod": mod},
            settings={},
            inputs=inputs,
            output=root / "output",
            measurement=root,
            checkpoint_prefix="checkpoints",
            reporter=SilentReporter(),
        )
        convert(context)
        return context

    return run


def weights(context: StepContext) -> bytes:
    return Path(context.output / "model" / "model.safetensors").read_bytes()


def test_gamma_converts_the_layers_that_arank_shows_redundant(converted: Convert) -> None:
    context = converted(GAMMA)
    written = json.loads((context.output / "conversion.json").read_text())
    model, _ = open_model_folder(context.output / "model")
    assert written["selection"]["layers"] == [1, 3] == list(mod_config(model).layers)
    assert len(written["selection"]["reasons"]) == 8
    assert mod_config(model).arank_digest


def test_random_layers_are_chosen_by_arank_and_have_no_router(converted: Convert) -> None:
    context = converted(GAMMA | {"method": "random"})
    model, _ = open_model_folder(context.output / "model")
    assert list(mod_config(model).layers) == [1, 3]
    assert mod_config(model).scorer == "random"
    assert not [name for name, _ in model.named_parameters() if "mod_router" in name]


def test_capacities_can_follow_arank(converted: Convert) -> None:
    context = converted(GAMMA | {"capacities": "arank"})
    written = json.loads((context.output / "conversion.json").read_text())
    few, many = written["config"]["capacities"][1], written["config"]["capacities"][0]
    assert few + many == pytest.approx(2 * 0.5)
    assert many / few == pytest.approx(5 / 4)


def test_routers_can_start_from_what_training_samples_show(converted: Convert) -> None:
    shown, again, random = (converted(GAMMA | {"warm_start": n}) for n in (16, 16, 0))
    written = json.loads((shown.output / "conversion.json").read_text())
    assert 0.5 < written["warm_start_agreement"] <= 1.0
    assert weights(shown) == weights(again) != weights(random)


def test_p_mod_converts_the_layers_of_its_schedule_and_says_why(converted: Convert) -> None:
    context = converted(P_MOD)
    written = json.loads((context.output / "conversion.json").read_text())
    layers, reasons = written["selection"]["layers"], written["selection"]["reasons"]
    assert layers == written["config"]["layers"]
    assert reasons[0] == "dense: its share in the ratio decay is above 85%"
    assert all(reasons[layer].startswith("MoD: the ratio decay") for layer in layers)


def test_the_same_seed_gives_the_same_routers(converted: Convert) -> None:
    assert weights(converted(GAMMA)) == weights(converted(GAMMA))
    assert weights(converted(GAMMA)) != weights(converted(GAMMA, seed=1))
