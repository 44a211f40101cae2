"""MoDModel: token kinds come in with the caller's batch, router losses go out in the loss."""

import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.kinds import TokenKind
from workloads.mod.config import MoDConfig
from workloads.mod.decoder import DecoderState
from workloads.mod.foreign import Foreign, by_name
from workloads.mod.guard import refuse_dense_loading
from workloads.mod.kinds import default_kinds, with_padding
from workloads.mod.record import RoutingRecord

_CACHES = (None, "dynamic")


class MoDModel(nn.Module):
    """Base of a converted model class: token kinds in, router losses out, generation included."""

    dense_class: ClassVar[type[nn.Module]]
    config: Foreign

    def forward(
        self,
        *args: Foreign,
        token_kinds: Tensor | None = None,
        routing_record: RoutingRecord | None = None,
        **kwargs: Foreign,
    ) -> Foreign:
        """Run the dense model's forward with routing.

        Args:
            *args: The dense model's positional arguments.
            token_kinds: int64 ``(batch, seq)`` of ``TokenKind``; derived from ``input_ids``,
                ``labels`` and ``attention_mask`` if absent.
            routing_record: Where to count what layers skip.
            **kwargs: The dense model's keyword arguments.

        Returns:
            What the dense model returns. In training with ``labels``, ``loss`` is the language
            model's loss plus ``aux_weight`` times the sum of the layers' router losses.

        Raises:
            ValueError: If ``token_kinds`` is neither given nor derivable, or does not fit; if the
                router loss has no gradient, as under reentrant checkpointing.
        """
        call = by_name(self.dense_class.forward, args) | kwargs
        if token_kinds is None:
            token_kinds = self._default_kinds(call)
        token_kinds = with_padding(token_kinds, call.get("attention_mask"))
        return_dict = call.pop("return_dict", None)
        labels = call.get("labels")
        losses: dict[int, Tensor] | None = None
        if self.training and labels is not None and self.mod_config.aux_weight > 0.0:
            losses = {}
        outputs = super().forward(
            **call,
            token_kinds=token_kinds,
            routing_record=routing_record,
            router_losses=losses,
            return_dict=True,
        )
        if labels is not None:
            self._add_router_loss(outputs, losses, routing_record)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return outputs if return_dict else outputs.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Foreign,
        token_kinds: Tensor | None = None,
        **kwargs: Foreign,
    ) -> dict[str, Any]:
        """Add the kinds of the tokens that the next forward gets."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if token_kinds is not None:
            tokens = inputs.get("inputs_embeds")
            tokens = inputs["input_ids"] if tokens is None else tokens
            # Candidates of an assistant stand behind what the kinds cover.
            ahead = max(input_ids.shape[1] - token_kinds.shape[1], 0)
            token_kinds = F.pad(token_kinds, (0, ahead), value=TokenKind.ANSWER)
            inputs["token_kinds"] = token_kinds[:, -tokens.shape[1] :]
        return inputs

    def save_pretrained(self, save_directory: Foreign, *args: Foreign, **kwargs: Foreign) -> None:
        """Save like the dense model, so that a dense loader refuses the folder by name."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        refuse_dense_loading(Path(save_directory))

    @property
    def mod_config(self) -> MoDConfig:
        """The MoD configuration in force."""
        state: DecoderState = self.get_decoder().mod_state  # type: ignore[operator]
        return state.config

    def _update_model_kwargs_for_generation(
        self, outputs: Foreign, model_kwargs: dict[str, Any], *args: Foreign, **kwargs: Foreign
    ) -> dict[str, Any]:
        length = None
        if (kinds := model_kwargs.get("token_kinds")) is not None:
            length = kwargs.get("num_new_tokens", args[1] if len(args) > 1 else 1)
            generated = kinds.new_full((kinds.shape[0], length), TokenKind.ANSWER)
            model_kwargs["token_kinds"] = torch.cat([kinds, generated], dim=1)
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(  # type: ignore[misc]
            outputs, model_kwargs, *args, **kwargs
        )
        return updated

    def _prepare_cache_for_generation(
        self,
        generation_config: Foreign,
        model_kwargs: dict[str, Any],
        *args: Foreign,
        **kwargs: Foreign,
    ) -> None:
        implementation = generation_config.cache_implementation
        if implementation not in _CACHES:
            raise ValueError(
                f"cache_implementation={implementation!r} cannot hold what Mixture-of-Depths "
                "layers store, leave it out"
            )
        if generation_config.prefill_chunk_size is not None:
            raise ValueError(
                "prefill_chunk_size would choose tokens chunk by chunk and change the result, "
                "leave it out"
            )
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, *args, **kwargs
        )
        cache = model_kwargs.get("past_key_values")
        for name in ("attention_mask", "position_ids"):
            if cache is not None and isinstance(model_kwargs.get(name), Tensor):
                cache.mod_prompt_length = model_kwargs[name].shape[-1]

    def _default_kinds(self, call: dict[str, Any]) -> Tensor:
        input_ids = call.get("input_ids")
        if input_ids is None:
            raise ValueError("token_kinds is required with inputs_embeds, got none")
        past = call.get("past_key_values")
        return default_kinds(
            input_ids,
            image_token_id=image_token_id(self.config),
            labels=call.get("labels"),
            past_length=0 if past is None else int(past.get_seq_length()),
            prompt_length=getattr(past, "mod_prompt_length", None),
        )

    def _add_router_loss(
        self, outputs: Foreign, losses: dict[int, Tensor] | None, record: RoutingRecord | None
    ) -> None:
        if record is not None:
            record.lm_loss = outputs.loss.detach()
            record.router_losses = {i: loss.detach() for i, loss in (losses or {}).items()}
        if not losses:
            return
        total = torch.stack([loss.to(outputs.loss.device) for loss in losses.values()]).sum()
        if torch.is_grad_enabled() and not total.requires_grad:
            raise ValueError(
                "the router loss has no gradient: use gradient checkpointing with "
                "use_reentrant=False, and do not freeze everything before the routers"
            )
        outputs.loss = outputs.loss + self.mod_config.aux_weight * total


def image_token_id(config: Foreign) -> int | None:
    """Id that stands for one image feature in ``input_ids``, or None if the model has none."""
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    return None


def with_signature(ours: Foreign, dense: Foreign, added: tuple[str, ...]) -> Foreign:
    """``ours`` under the signature of ``dense`` with arguments added: ``generate`` reads both."""

    def method(self: Foreign, *args: Foreign, **kwargs: Foreign) -> Foreign:
        return ours(self, *args, **kwargs)

    signature = inspect.signature(dense)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = list(signature.parameters.values())
    keywords = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = [p for p in parameters if p not in keywords]
    named += [inspect.Parameter(name, keyword, default=None) for name in added]
    method.__doc__ = ours.__doc__
    method.__signature__ = signature.replace(parameters=named + keywords)  # type: ignore[attr-defined]
    return method


def model_members(dense_class: Foreign) -> dict[str, Foreign]:
    """Methods of a converted model class whose signatures transformers inspects."""
    prepare = "prepare_inputs_for_generation"
    members = {
        "forward": with_signature(
            MoDModel.forward, dense_class.forward, ("token_kinds", "routing_record")
        )
    }
    if hasattr(dense_class, prepare):
        members[prepare] = with_signature(
            MoDModel.prepare_inputs_for_generation, getattr(dense_class, prepare), ("token_kinds",)
        )
    return members
