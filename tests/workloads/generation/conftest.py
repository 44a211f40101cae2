import copy

import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from tests.orchestrator.small_llava import small_llava
from workloads.data import Sample, Turn
from workloads.generation import Generator
from workloads.mod import MoDConfig, convert

Twins = tuple[PreTrainedModel, PreTrainedModel, ProcessorMixin]


@pytest.fixture(scope="package")
def twins() -> Twins:
    """A dense Llava of three layers, its converted twin and their processor."""
    dense, processor = small_llava(layers=3, patch_pixels=8)
    torch.nn.init.normal_(dense.get_output_embeddings().weight, std=1.0)
    config = MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5, threshold=0.5)
    mod = convert(copy.deepcopy(dense), config)
    for name, parameter in mod.named_parameters():
        if "mod_router" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    return dense, mod, processor


@pytest.fixture(scope="package")
def dense(twins: Twins) -> Generator:
    return Generator(twins[0], twins[2])


@pytest.fixture(scope="package")
def mod(twins: Twins) -> Generator:
    return Generator(twins[1], twins[2])


def asked(question: str, *, grey: int | None = 100) -> Sample:
    """A prompt with one image, or with none."""
    images = () if grey is None else (Image.radial_gradient("L").resize((32, 32)).convert("RGB"),)
    images = tuple(image.point(lambda value: (value + (grey or 0)) % 256) for image in images)
    text = question if grey is None else f"<image>\n{question}"
    return Sample("q", images, (Turn("human", text), Turn("gpt", "")), {})
