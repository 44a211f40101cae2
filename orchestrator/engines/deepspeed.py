"""An engine over DeepSpeed: ZeRO 0 to 3, float32 or bfloat16, on GPUs or on CPUs over gloo."""

import importlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from orchestrator.engines.universal import load_groups, ranks_of, universal_checkpoint
from workloads.training import Ranks, TrainingConfig, TrainingError, parameter_groups

_TAG = "deepspeed"
_ABSENT = object()


class DeepSpeedEngine:
    """DeepSpeed's engine behind the loop's protocol.

    DeepSpeed divides gradients by the number of ranks; losses are multiplied by it first, so that
    a step's gradient is the sum that the protocol asks for. Its optimizer is torch's fused AdamW,
    which needs no compiler on the machine, unlike DeepSpeed's own.
    """

    can_shard: ClassVar[bool] = True

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
        self._utils = deepspeed.runtime.utils
        self._norm = torch.zeros(())
        self._clip_norm, self._clips = config.clip_norm, _clips_itself(config)
        os.environ.setdefault("LOCAL_RANK", "0")  # Asked for, though only launchers use it.
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(groups, betas=config.betas, fused=True),
            config=_deepspeed_config(config, rows),
            dist_init_required=False,
        )

    @property
    def layout(self) -> str:
        """Shards belong to one ZeRO stage; another number of ranks can load them."""
        return f"DeepSpeed ZeRO-{self._stage} {self._precision}"

    def forward(self, inputs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Call the model with float inputs in the precision of its weights."""
        return self._engine(**{name: self._cast(value) for name, value in inputs.items()})

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Accumulate; at the last micro-batch gradients are reduced over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self.ranks.size, scale_wrt_gas=False)

    def reduce(self) -> float:
        """Return the norm of what the last ``backward`` has summed."""
        self._norm = self._norm_of_gradient()
        norm = float(self._norm)
        return norm if norm >= 0 else math.inf  # DeepSpeed marks what is not finite by -1.

    def update(self, rate_factor: float) -> None:
        """Clip, update every rank's share and gather the weights that ranks hold whole."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate_factor
        if self._clips:
            nn.utils.clip_grads_with_norm_(self._learning, self._clip_norm, self._norm)
        self._engine.step()

    def discard(self) -> None:
        """Let DeepSpeed drop the gradient as it drops one that is not finite."""
        if self._stage == 0:
            self._optimizer.zero_grad()
            return
        groups = list(self._optimizer.averaged_gradients.values())
        shares = [share for group in groups for share in group]
        for share in shares:
            share.fill_(math.inf)
        logger = logging.getLogger("DeepSpeed")
        logger.setLevel(logging.ERROR)  # It would warn of an overflow.
        self._engine.step()
        logger.setLevel(logging.WARNING)
        for share in shares:
            share.zero_()  # In ZeRO-3 the padding of these buffers is written by nobody else.

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
        """Read a DeepSpeed checkpoint; it holds pickles, so only after its digests matched.

        One of another number of ranks is brought into a form that any number can read, and gives
        the same weights and optimizer states.
        """
        if ranks_of(folder) in (0, self.ranks.size):
            self._load(folder)
            return
        kept = [dict(group) for group in self._optimizer.param_groups]
        self._engine._config.load_universal_checkpoint = True
        if self._stage in (1, 2):
            self._optimizer.load_hp_checkpoint_state_from_checkpoint_dir = partial(
                load_groups, self._optimizer
            )
        try:
            with universal_checkpoint(folder, self.ranks) as copy:
                self._load(copy)
        finally:
            self._engine._config.load_universal_checkpoint = False
        # ZeRO-3 gives all groups the rate and the decay of the first, and one counter of steps that
        # each of them would raise.
        for group, before in zip(self._optimizer.param_groups, kept, strict=True):
            group.update({name: before[name] for name in ("base_lr", "lr", "weight_decay")})
        for weight, state in self._optimizer.optimizer.state.items():
            state["step"] = state["step"].to(weight.device, copy=True)

    def _load(self, folder: Path) -> None:
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

    def _norm_of_gradient(self) -> Tensor:
        """The norm that DeepSpeed's own step takes, before it."""
        norm: Tensor
        if self._stage == 0:
            norm = nn.utils.clip_grad_norm_(self._learning, float("inf"))
        elif self._stage == 3:
            norm = self._utils.combine_grad_norm_groups(self._optimizer._get_norm_groups())
        else:
            norm = self._optimizer.scaled_global_norm()
        return norm


def _clips_itself(config: TrainingConfig) -> bool:
    """In bfloat16 without ZeRO, DeepSpeed 0.19 would clip by the norm of the weights."""
    return config.zero_stage == 0 and config.precision == "bf16"


def _deepspeed_config(config: TrainingConfig, rows: int) -> dict[str, Any]:
    micro_batch = config.micro_batch or rows
    offload = {"offload_optimizer": {"device": "cpu"}} if config.offload_optimizer else {}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": rows // micro_batch,
        "gradient_clipping": 0.0 if _clips_itself(config) else config.clip_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": sys.maxsize,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
            **offload,
        },
        # DeepSpeed's own needs a compiler on the machine.
        "zero_force_ds_cpu_optimizer": False,
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
