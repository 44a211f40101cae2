from typing import Any

import pytest
from transformers import PreTrainedModel, ProcessorMixin

from orchestrator.report.examples import Example, LayerView
from tests.orchestrator.small_llava import small_llava
from workloads.mod import MoDConfig, convert


@pytest.fixture
def documents() -> dict[str, Any]:
    """What a run of three layers, of which two were converted, leaves behind."""
    skip = {
        "nominal": {"skip_routable": 0.4, "skip_all": 0.33},
        "measured": {"skip_routable": 0.42, "skip_all": 0.34},
        "per_layer": {"2": {"all": 0.36, "image": 0.5}, "1": {"all": 0.32, "image": 0.4}},
    }
    cost: dict[str, Any] = {
        "kept": [78.0, 78.0, 78.0],
        "tflops_closed": 2e-5,
        "tflops_counted": 4e-5,
        "tflops_counted_model": 8e-5,
        "kv_bytes_closed": 1000.0,
        "kv_bytes_counted": 2000.0,
    }
    half = {**{name: value / 2 for name, value in cost.items() if name != "kept"}, "kept": [78.0]}
    times = {"median_ratio": 0.8, "ratios": [0.8], "seconds": {"dense": [0.1], "mod": [0.3]}}
    history = {"points": [{"step": n, "loss": 1 / n, "lm_loss": 0.9 / n} for n in range(1, 30)]}
    reasons = ["dense: always", "MoD: among the lowest", "MoD: among the lowest <2/3>"]
    return {
        "align": history,
        "finetune_dense": history,
        "finetune_mod": history,
        "arank": {
            "profile": {
                "mean": [9.5, 4.0, 3.0],
                "stderr": [0.1, 0.2, 0.3],
                "samples": 50,
                "heads": 4,
                "digest": "feed" * 16,
                "per_head": [[9.0, 10.0], [4.0, 4.0], [2.0, 4.0]],
                "per_task": {"count": [9.0, 5.0, 3.0], "place": [10.0, 3.0, 3.0]},
                "task_correlations": {"count": {"place": 0.87}, "place": {"count": 0.87}},
                "stability": {"1": None, "32": 0.96},
            },
            "selection": None,
        },
        "conversion": {
            "selection": {
                "layers": [1, 2],
                "reasons": reasons,
                "warnings": ["the layer order is not stable"],
                "policy": {"policy": "fraction"},
            }
        },
        "dense": {
            "accuracy": 0.92,
            "questions": 4,
            "by_kind": {"count": {"accuracy": 0.92, "questions": 4}},
        },
        "mod": {
            "accuracy": 0.905,
            "questions": 4,
            "by_kind": {"count": {"accuracy": 0.905, "questions": 4}},
            "skip": skip,
        },
        "efficiency": {"dense": cost, "mod": half},
        "timing": {"prefill": times, "training_step": times, "threads": 1},
        "registration": {
            "name": "digits-mod",
            "version": "3",
            "uri": "models:/digits-mod/3",
            "tracking_uri": "http://mlflow.example:5000",
            "digest": "abc",
        },
    }


@pytest.fixture
def example() -> Example:
    return Example(
        image="data:image/png;base64,AAAA",
        pixels=64,
        rows=2,
        columns=2,
        layers=(LayerView(layer=1, skipped=(0, 3), share=0.5),),
        kind="count",
        question="How many <digits> are there?",
        expected="6",
        dense="6",
        mod="",
        is_dense_right=True,
        is_mod_right=False,
    )


@pytest.fixture(scope="session")
def converted() -> tuple[PreTrainedModel, ProcessorMixin]:
    """A Llava of three layers and 4 x 4 patches with random weights, converted."""
    model, processor = small_llava(layers=3, patch_pixels=8)
    config = MoDConfig.p_mod(num_layers=3, max_ratio=0.5, min_ratio=0.25)
    return convert(model, config), processor
