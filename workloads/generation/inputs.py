"""What of a batch a model is given: a dense model knows nothing of token kinds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from workloads.mod import is_converted


def model_inputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of ``batch`` that ``model`` takes, on its device."""
    keeps_kinds = is_converted(model)
    return {
        name: value.to(model.device)
        for name, value in batch.items()
        if keeps_kinds or name != "token_kinds"
    }
