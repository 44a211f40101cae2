"""An engine over DeepSpeed: ZeRO 0 to 3, float32 or bfloat16, on GPUs or on CPUs over gloo."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workloads.training import Ranks, TrainingConfig, TrainingError, parameter_groups

_TAG = "deepspeed"
_ABSENT = object()


class DeepSpeedEngine:
    """DeepSpeed's engine behind the loop's protocol.

    DeepSpeed divides gradients by the number of ranks; losses are multiplied by it first, so that
    a step's gradient is the sum that the protocol asks for. Its optimizer is torch's fused AdamW,
    which needs no compiler on the machine, unlike DeepSpeed's own.
    """

    def __init__(self, model: PreTrainedModel, config: TrainingConfig, *, ranks: Ranks) -> None:
        """Take over ``model``, whose parts have been chosen; the process group must exist.

        Raises:
            TrainingError: If the global batch does not divide into ranks and micro-batches.
        """
        rows = config.rows_of_a_rank(ranks.size)
        self.model, self.ranks = model.train(), ranks
        self._stage, self._precision = config.zero_stage, config.precision
        self._dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        nn.Module.to(model, ranks.device, self._dtype)
        groups = parameter_groups(model, config)
        self._learning = [weight for group in groups for weight in group["params"]]
        deepspeed = _import_deepspeed()
        os.environ.setdefault("LOCAL_RANK", "0")  # Asked for, though only launchers use it.
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(groups, betas=config.betas, fused=True),
            config=_deepspeed_config(config, rows),
            dist_init_required=False,
        )

    @property
    def layout(self) -> str:
        """Shards belong to one number of ranks and one ZeRO stage."""
        return f"DeepSpeed ZeRO-{self._stage} {self._precision} on {self.ranks.size} ranks"

    def forward(self, inputs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Call the model with float inputs in the precision of its weights."""
        return self._engine(**{name: self._cast(value) for name, value in inputs.items()})

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Accumulate; at the last micro-batch gradients are reduced over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self.ranks.size, scale_wrt_gas=False)

    def step(self, rate_factor: float) -> float:
        """Clip, update every rank's share and gather the weights that ranks hold whole."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate_factor
        norm = self._norm_without_zero()
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def save(self, folder: Path) -> None:
        """Write this rank's part of a DeepSpeed checkpoint, frozen weights left out."""
        self._engine.save_checkpoint(
            str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True
        )
        for file in list((folder / _TAG).iterdir()):
            file.rename(folder / file.name)
        (folder / _TAG).rmdir()
        (folder / "zero_to_fp32.py").unlink(missing_ok=True)

    def load(self, folder: Path) -> None:
        """Read a DeepSpeed checkpoint; it holds pickles, so only after its digests matched."""
        path, _ = self._engine.load_checkpoint(
            str(folder.parent), tag=folder.name, load_module_strict=False
        )
        if path is None:
            raise TrainingError(f"DeepSpeed cannot load the checkpoint in {folder}")

    def full_weights(self) -> dict[str, Tensor] | None:
        """Gather all weights on rank 0, in 16 bits where training was."""
        if self._stage == 3:
            gathered: dict[str, Tensor] | None = self._engine._zero3_consolidated_16bit_state_dict()
            return gathered
        if not self.ranks.is_first:
            return None
        return {name: weight.detach().cpu() for name, weight in self.model.state_dict().items()}

    def _cast(self, value: Any) -> Any:  # noqa: ANN401
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self._dtype) if is_float else value

    def _norm_without_zero(self) -> float | None:
        """DeepSpeed keeps no gradient norm for plain float32 training."""
        if self._stage > 0 or self._precision != "fp32":
            return None
        return float(nn.utils.clip_grad_norm_(self._learning, float("inf")))


def _deepspeed_config(config: TrainingConfig, rows: int) -> dict[str, Any]:
    micro_batch = config.micro_batch or rows
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": rows // micro_batch,
        "gradient_clipping": config.clip_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": sys.maxsize,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def _import_deepspeed() -> Any:  # noqa: ANN401
    """Import DeepSpeed without what costs seconds and is not used here.

    It imports mlflow for an autotuner (1.5 s), and on CPUs compiles a shared-memory collective
    that serves inference only (20 s and a compiler at first use).
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    mlflow = sys.modules.get("mlflow", _ABSENT)
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        deepspeed = importlib.import_module("deepspeed")
    finally:
        if mlflow is _ABSENT:
            del sys.modules["mlflow"]
        else:
            sys.modules["mlflow"] = mlflow  # type: ignore[assignment]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed
