"""TokenRouter: one score per token, as a weight for its branch and as a rank for selection."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.mod.config import MoDConfig


class TokenRouter(nn.Module):
    """Scores tokens with one linear map; per layer, or shared by all layers and both modalities.

    The weight has the shape of the released checkpoints: ``(2, hidden)`` for the binary scorer
    (class 1 is "compute this token"), ``(1, hidden)`` for the scalar one. It is a module of its
    own and no ``nn.Linear``, so that tools which replace every Linear leave it alone.

    Args:
        hidden_size: Width of the hidden states.
        config: Scorer, bias, initialisation and weight normalisation.
    """

    def __init__(self, hidden_size: int, config: MoDConfig) -> None:
        super().__init__()
        rows = 2 if config.scorer == "binary" else 1
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.zeros(rows)) if config.router_bias else None
        self.reset_parameters(config)

    def reset_parameters(self, config: MoDConfig) -> None:
        """Fill the weights as ``config.router_init`` says; the bias starts at zero."""
        if config.router_init == "zero":
            nn.init.zeros_(self.weight)
        elif config.router_init == "xavier":
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def start_from(self, direction: Tensor, bias: Tensor | None) -> None:
        """Set the weights so that the logits are ``features @ direction + bias``.

        Args:
            direction: ``(hidden,)``.
            bias: ``(1,)``, or None for a router without one.
        """
        for parameter, value in ((self.weight, direction.unsqueeze(0)), (self.bias, bias)):
            if parameter is not None and value is not None:
                halves = torch.cat([-value / 2, value / 2])
                parameter.copy_(halves if parameter.shape[0] == 2 else value)

    def forward(self, features: Tensor) -> Tensor:
        """Router logits in float32, ``(batch, seq)``.

        For the binary scorer this is the difference of the two logits, whose sigmoid is the
        softmax probability of class 1.

        Args:
            features: ``(batch, seq, hidden)``, normed or raw as the configuration says.

        Returns:
            float32 ``(batch, seq)``.
        """
        weight, bias = self.weight, self.bias
        is_binary = weight.shape[0] == 2
        direction = weight[1] - weight[0] if is_binary else weight[0]
        logits = features.to(direction.dtype) @ direction
        if bias is not None:
            logits = logits + (bias[1] - bias[0] if is_binary else bias[0])
        return logits.float()


def branch_weight(logits: Tensor, config: MoDConfig) -> Tensor:
    """Weight of each token's branch, float32 ``(batch, seq)``.

    Args:
        logits: What :class:`TokenRouter` returned.
        config: Normalisation, scale and bias; TanhNorm is ``1 + alpha * tanh`` (p-MoD, 3.2).

    Returns:
        ``weight_scale * norm(logits) + weight_bias``.
    """
    if config.weight_norm in ("softmax", "sigmoid"):
        weight = logits.sigmoid()
    elif config.weight_norm == "tanh":
        weight = logits.tanh()
    else:
        weight = logits
    if config.weight_scale != 1.0:
        weight = weight * config.weight_scale
    return weight + config.weight_bias if config.weight_bias != 0.0 else weight


def selection_score(logits: Tensor, config: MoDConfig) -> Tensor:
    """What tokens are ranked by and thresholds apply to: a probability, or the raw logit.

    The raw logit, because a saturated tanh makes ties that the released code breaks by
    position (semantics.md, defect 13).
    """
    logits = logits.detach()
    return logits.sigmoid() if config.scorer == "binary" else logits


def router_loss(logits: Tensor, routed: Tensor, token_weight: Tensor) -> Tensor:
    """Cross entropy between the binary router and the routing it led to (gamma-MoD, eq. 5).

    Args:
        logits: float32 ``(batch, seq)`` differences of the two logits.
        routed: bool ``(batch, seq)``, the target: True where the layer computed the token.
        token_weight: float32 ``(batch, seq)``: one over the number of real tokens in the
            batch at real tokens, 0 at padding.

    Returns:
        Mean over the real tokens of the whole batch, a scalar.
    """
    return F.binary_cross_entropy_with_logits(
        logits, routed.to(logits.dtype), weight=token_weight, reduction="sum"
    )
