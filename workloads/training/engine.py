"""What the loop asks of a trainer of weights, and the one that needs nothing but torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workloads.training.config import TrainingConfig
from workloads.training.parts import parameter_groups
from workloads.training.ranks import Ranks


class Engine(Protocol):
    """Forward, backward and update over all ranks; every rank makes the same calls."""

    can_shard: ClassVar[bool]
    """Whether ranks may share weights, gradients and optimizer states, as ``zero_stage`` says."""

    def __init__(self, model: PreTrainedModel, config: TrainingConfig, *, ranks: Ranks) -> None:
        """Take over ``model``, whose parts have been chosen."""

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, whatever it is wrapped into."""

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; inputs must lie on ``ranks.device``."""

    @property
    def layout(self) -> str:
        """In words, what a checkpoint must have been written as to be loaded."""

    def forward(self, inputs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Call the model in training mode; return its output."""

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of ``loss`` to the step's.

        The step's gradient is the sum over micro-batches and ranks, not their mean.

        Args:
            loss: Scalar; this micro-batch's part of the global batch's loss.
            is_last: Whether it is this rank's last micro-batch of the step.
        """

    def reduce(self) -> float:
        """Complete the step's gradient; return its L2 norm, NaN or infinite if it is not finite."""

    def update(self, rate_factor: float) -> None:
        """Clip the completed gradient, update at ``base_lr * rate_factor``, clear it."""

    def discard(self) -> None:
        """Clear the completed gradient; weights and optimizer stay as they are."""

    def save(self, folder: Path) -> None:
        """Write this rank's share of weights that learn and optimizer state into ``folder``."""

    def load(self, folder: Path) -> None:
        """Restore from a folder with every rank's files of the same layout."""

    def full_weights(self) -> dict[str, Tensor] | None:
        """Gather all weights on the CPU of rank 0, where they are returned."""


class TorchEngine:
    """AdamW on every rank, gradients summed over the process group if there is one.

    Under bf16 the weights stay float32 and matrix products run under autocast.
    """

    can_shard: ClassVar[bool] = False

    _FILE = "torch-engine.pt"

    def __init__(
        self, model: PreTrainedModel, config: TrainingConfig, *, ranks: Ranks | None = None
    ) -> None:
        """Take over ``model``, whose parts have been chosen, and move it to the rank's device."""
        self.ranks = ranks or Ranks.current()
        self.model = model.train()
        nn.Module.to(model, self.ranks.device, torch.float32)
        self._clip_norm = config.clip_norm
        self._is_bf16 = config.precision == "bf16"
        self._groups = parameter_groups(model, config)
        self._learning = [weight for group in self._groups for weight in group["params"]]
        self._optimizer = torch.optim.AdamW(self._groups, betas=config.betas, fused=True)
        self._norm = torch.zeros(())

    @property
    def layout(self) -> str:
        """Weights and optimizer are the same on all ranks, so any number of them can load."""
        return "the torch engine"

    def forward(self, inputs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Call the model, under autocast for bf16."""
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self._is_bf16):
            return self.model(**inputs)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Accumulate locally; ranks are summed once per step."""
        del is_last
        loss.backward()  # type: ignore[no-untyped-call]

    def reduce(self) -> float:
        """Sum over ranks."""
        self._sum_gradients()
        gradients = [weight.grad for weight in self._learning if weight.grad is not None]
        self._norm = nn.utils.get_total_norm(gradients)
        return float(self._norm)

    def update(self, rate_factor: float) -> None:
        """Clip, update, clear."""
        nn.utils.clip_grads_with_norm_(self._learning, self._clip_norm, self._norm)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad()

    def discard(self) -> None:
        """Clear."""
        self._optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        """Write everything from rank 0."""
        if self.ranks.is_first:
            weights = [weight.detach() for weight in self._learning]
            state = {"weights": weights, "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / self._FILE)

    def load(self, folder: Path) -> None:
        """Read what rank 0 wrote."""
        state = torch.load(folder / self._FILE, map_location=self.ranks.device, weights_only=True)
        with torch.no_grad():
            for weight, saved in zip(self._learning, state["weights"], strict=True):
                weight.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    def full_weights(self) -> dict[str, Tensor] | None:
        """Return rank 0's state dict."""
        if not self.ranks.is_first:
            return None
        return {name: weight.detach().cpu() for name, weight in self.model.state_dict().items()}

    def _sum_gradients(self) -> None:
        for weight in self._learning:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if self.ranks.size > 1:
            gradients = [weight.grad for weight in self._learning if weight.grad is not None]
            flat = self.ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
