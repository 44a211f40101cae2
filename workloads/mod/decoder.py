"""MoDDecoder: turns token kinds into what the layers of one forward share."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from workloads.kinds import TokenKind
from workloads.mod.cache import install
from workloads.mod.config import MoDConfig
from workloads.mod.foreign import Foreign, by_name
from workloads.mod.kinds import check_kinds
from workloads.mod.record import RoutingRecord
from workloads.mod.routing_pass import RoutingPass, kind_mask


@dataclass(slots=True)
class DecoderState:
    """What a converted decoder knows.

    Args:
        config: The MoD configuration; calibration replaces it.
        is_plain_causal: Whether the dense decoder hides the future and padding, nothing else.
    """

    config: MoDConfig
    is_plain_causal: bool


class MoDDecoder(nn.Module):
    """Base of a converted decoder class: makes the state that its layers share in one forward."""

    dense_class: ClassVar[type[nn.Module]]
    mod_state: DecoderState
    mod_router: nn.Module | None
    config: Foreign

    def forward(
        self,
        *args: Foreign,
        token_kinds: Tensor | None = None,
        routing_record: RoutingRecord | None = None,
        router_losses: dict[int, Tensor] | None = None,
        **kwargs: Foreign,
    ) -> Foreign:
        """Run the dense decoder with routing in its converted layers.

        Args:
            *args: The dense decoder's positional arguments.
            token_kinds: int64 ``(batch, seq)`` of ``TokenKind``.
            routing_record: Where to count what layers skip.
            router_losses: Receives each layer's router loss.
            **kwargs: The dense decoder's keyword arguments.

        Raises:
            ValueError: If ``token_kinds`` is missing or does not fit, the cache cannot hold
                what the layers compute, or router scores are not finite.
        """
        call = by_name(self.dense_class.forward, args) | kwargs
        tokens = call.get("inputs_embeds")
        tokens = call.get("input_ids") if tokens is None else tokens
        if token_kinds is None or tokens is None:
            raise ValueError("token_kinds is required: call the whole model, or pass it")
        kinds = check_kinds(token_kinds, (tokens.shape[0], tokens.shape[1]))
        past = self._cache(call)
        routing = self._routing_pass(
            kinds,
            tokens.device,
            past_length=0 if past is None else int(past.get_seq_length()),
            attention_mask=call.get("attention_mask"),
            losses=router_losses,
            record=routing_record,
        )
        output = super().forward(**call, routing_pass=routing)
        if not (self.training and routing.kinds.is_cuda):
            # A training goes on without waiting: NaN scores reach its loss, which is judged.
            routing.check_scores()
        return output

    def _cache(self, call: dict[str, Any]) -> Foreign:
        if call.get("use_cache") is None:
            # Nobody reads the keys of a training forward, and storing them copies them.
            call["use_cache"] = self.config.use_cache and not self.training
        if call.get("past_key_values") is None and call["use_cache"]:
            call["past_key_values"] = DynamicCache(config=self.config)
        past = call.get("past_key_values")
        if past is not None:
            install(past, self.mod_state.config.layers)
        return past

    def _routing_pass(
        self,
        kinds: Tensor,
        device: torch.device,
        *,
        past_length: int,
        attention_mask: Foreign,
        losses: dict[int, Tensor] | None,
        record: RoutingRecord | None,
    ) -> RoutingPass:
        config = self.mod_state.config
        routable_kinds = config.routable_kinds(is_training=self.training)
        if past_length > 0 and not self.training and config.inference == "topk":
            # Top-k over generated tokens would let later ones decide on earlier ones.
            routable_kinds = tuple(k for k in routable_kinds if k is not TokenKind.ANSWER)
        real, routable = _counts(kinds, routable_kinds)
        is_2d = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
        return RoutingPass(
            config=config,
            kinds=kinds.to(device, non_blocking=True),
            real_counts=real,
            routable_counts=routable,
            routable_kinds=routable_kinds,
            is_training=self.training,
            past_length=past_length,
            shared_router=self.mod_router if config.shared_router else None,
            rotary=self.get_submodule("rotary_emb") if config.positions == "compact" else None,
            attention=str(self.config._attn_implementation),
            is_plain_causal=self.mod_state.is_plain_causal and is_2d,
            losses=losses,
            record=record,
        )


def _counts(kinds: Tensor, routable: tuple[TokenKind, ...]) -> tuple[list[int], list[int]]:
    """Real and routable tokens per row: the one thing the host must know of the kinds."""
    real = (kinds != TokenKind.PAD).sum(1)
    counts = torch.stack([real, kind_mask(kinds, routable).sum(1)]).tolist()
    return counts[0], counts[1]
