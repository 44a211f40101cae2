from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from workloads.mod import MoDConfig, convert, is_converted
from workloads.model_folder import is_converted_folder, open_model_folder, save_model_folder
from workloads.models import ModelError, resolve_model


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[1, 5, 300, 301, 302]])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


@pytest.mark.parametrize("is_mod", [False, True])
def test_what_was_saved_is_opened_as_what_it_was(tmp_path: Path, is_mod: bool) -> None:
    model, processor = open_model_folder(resolve_model("digits"))
    if is_mod:
        convert(model, MoDConfig.gamma(layers=[2, 3], capacity_ratio=0.5))
    model.eval()
    save_model_folder(model, processor, tmp_path / "model")
    opened, its_processor = open_model_folder(tmp_path / "model")
    assert is_converted(opened) == is_converted_folder(tmp_path / "model") == is_mod
    assert torch.equal(logits(opened), logits(model))
    assert its_processor.chat_template == processor.chat_template


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_model_folder(tmp_path)
