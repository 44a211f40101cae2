import pytest

from tests.workloads.mod import tiny
from workloads.mod import MoDConfig, convert
from workloads.training import TrainingConfig, choose_parts
from workloads.training.config import Part
from workloads.training.flops import StepFlops, peak_flops

H100 = "NVIDIA H100 80GB HBM3"
HIDDEN, FEED, VOCABULARY = 32, 64, 64
LAYER = HIDDEN * (HIDDEN + 2 * HIDDEN // 2 + HIDDEN) + 3 * HIDDEN * FEED
"""Weights of one layer: four heads share two key heads."""


def priced(*parts: Part, layers: tuple[int, ...] = ()) -> StepFlops:
    model = tiny.llava()
    if layers:
        config = MoDConfig.gamma(layers=layers, capacity_ratio=0.5, masked="image-only")
        model = convert(model, config)
    choose_parts(model, parts)
    config = TrainingConfig(steps=1, learning_rate=1e-3, trainable=parts, precision="bf16")
    found = StepFlops.of_model(model, config, H100)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        (H100, "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
    ],
)
def test_peaks_are_those_of_the_data_sheets(device: str, precision: str, tflops: float) -> None:
    assert peak_flops(device, precision) == tflops * 1e12


def test_a_device_that_is_not_known_has_no_price() -> None:
    assert peak_flops("Imaginary 9000", "bf16") is None


def test_a_weight_costs_two_operations_each_way_and_two_more_where_it_learns() -> None:
    whole = tiny.NUM_LAYERS * LAYER + VOCABULARY * HIDDEN
    assert priced("language_model").per_token == 6 * whole
    assert priced("projector").per_token == 4 * whole
    assert priced("projector").per_image_token < priced("projector", "vision_tower").per_image_token


def test_a_converted_layer_is_paid_for_the_tokens_that_it_computes() -> None:
    dense, mod = priced("language_model"), priced("language_model", layers=(1, 3))
    assert mod.per_layer == {1: 6 * LAYER, 3: 6 * LAYER}
    router = 4 * 2 * HIDDEN  # it sees every token, and is frozen here
    assert mod.of(10, 4, {}) == pytest.approx(dense.of(10, 4, {}) + 10 * router)
    saved = mod.of(10, 4, {}) - mod.of(10, 4, {"3/all": 0.5})
    assert saved == pytest.approx(10 * 0.5 * 6 * LAYER)
