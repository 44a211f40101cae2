import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import LlavaProcessor

from workloads.models.processor import build_processor, train_tokenizer

WriteRecords = Callable[[Any], Path]


@pytest.fixture(scope="session")
def processor() -> LlavaProcessor:
    texts = [
        "Which digit is in cell K?",
        "Is there a 7?",
        "How many digits are there?",
    ] * 5
    tokenizer = train_tokenizer([*texts, "12", "yes", "no"], vocabulary_size=384)
    return build_processor(tokenizer, image_pixels=64, patch_pixels=8)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    for name, level in (("a.png", 40), ("b.png", 200)):
        Image.new("L", (64, 64), level).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def write_records(image_root: Path) -> WriteRecords:
    def write(content: Any) -> Path:
        path = image_root / "records.json"
        path.write_text(json.dumps(content))
        return path

    return write
