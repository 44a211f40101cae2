"""Tiny models of every image-text family of transformers, by rules on the names of sizes.

A family's own defaults are kept wherever they are no size, so that its norms, masks, rotary
embeddings and layer types are the ones that users meet.
"""

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from workloads.mod import MoDConfig

IMAGE_TOKEN = 3
VOCABULARY = 128
LAYERS = 4

TEXT_SIZES = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "intermediate_size_mlp": 96,
    "max_position_embeddings": 512,
    "sliding_window": 64,
    "query_pre_attn_scalar": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    # mixture of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "expert_intermediate_size": 32,
    "moe_num_experts": 4,
    "moe_num_shared_experts": 1,
    "moe_k": 2,
    "moe_topk": 2,
    "first_k_dense_replace": 1,
    # latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    # linear attention
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

VISION_SIZES = {
    "hidden_size": 32,
    "embed_dim": 32,
    "d_model": 32,
    "hidden_dim": 32,
    "out_hidden_size": 64,
    "projection_dim": 32,
    "intermediate_size": 48,
    "mlp_dim": 48,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "depth": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "attention_heads": 2,
    "head_dim": 16,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 32,
}

VISION_PARTS = ("vision", "visual", "vit", "perceiver", "qformer", "sam", "vq", "encoder", "audio")

TOKEN_IDS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_token_id": IMAGE_TOKEN,
    "image_token_index": IMAGE_TOKEN,
    "video_token_id": 4,
    "video_token_index": 4,
}
OTHER_TOKEN = 5

SECTIONS = {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 10000.0}
"""Rotary sections that fill half of a head: such families have them in code, for their own size."""

ROTARY = {"text_config.rope_parameters": SECTIONS}

OVERRIDES: dict[str, dict[str, object]] = {
    "chameleon": {"vocabulary_map": {"<image>": IMAGE_TOKEN}},
    "cosmos3_edge": ROTARY,
    "ernie4_5_vl_moe": {"text_config.rope_parameters": SECTIONS | {"mrope_section": [3, 3, 2]}},
    "gemma3": {"mm_tokens_per_image": 4},
    "glm46v": ROTARY,
    "glm4v": ROTARY,
    "glm4v_moe": {
        "text_config.rope_parameters": SECTIONS
        | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    },
    "glm_ocr": ROTARY,
    "glmga": ROTARY,
    "idefics2": {"text_config.sliding_window": None, "perceiver_config.hidden_size": 64},
    "got_ocr2": {"_attn_implementation": "eager"},
    "kimi_k25": {"text_config.num_key_value_heads": 4, "text_config.head_dim": 8},
    "mistral": {"sliding_window": None},
    "mistral3": {"text_config.sliding_window": None},
    "paddleocr_vl": ROTARY,
    "molmo2": {"adapter_config.vision_feature_layer": [0, 1]},
    "paligemma": {"projection_dim": 64, "vision_config.projection_dim": 64},
    "perception_lm": {
        "vision_config.architecture": "vit_pe_core_large_patch14_336",
        "vision_config.model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    },
    "qwen2_5_vl": ROTARY,
    "qwen2_vl": ROTARY | {"vision_config.hidden_size": 64},
    "qwen3_vl": {"vision_config.deepstack_visual_indexes": [0, 1]},
}
"""What the rules cannot know: family to dotted field to value."""

TEXT_ONLY = ("gemma", "llama", "mistral", "qwen3")

COMMON = (
    "aya_vision",
    "cohere2_vision",
    "gemma3",
    "glm4v",
    "idefics2",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "mistral3",
    "ovis2",
    "paligemma",
    "perception_lm",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
    "video_llava",
    "vipllava",
)

OTHERS = (
    "aria",
    "chameleon",
    "cosmos3_edge",
    "cosmos3_omni",
    "deepseek_vl",
    "deepseek_vl_hybrid",
    "ernie4_5_vl_moe",
    "exaone4_5",
    "fuyu",
    "glm46v",
    "glm4v_moe",
    "glm_ocr",
    "got_ocr2",
    "granite_docling",
    "hyperclovax_vision_v2",
    "janus",
    "kimi_k25",
    "lfm2_vl",
    "lfm3_vl",
    "lighton_ocr",
    "llava_next_video",
    "minicpm_ocr",
    "minicpmv4_6",
    "minicpmv4_7",
    "molmo2",
    "muse_glimmer",
    "paddleocr_vl",
    "qianfan_ocr",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_vl_moe",
    "video_llama_3",
)
"""Families that are checked in ``make test-all`` only."""


def tiny_config(family: str) -> PreTrainedConfig:
    """The family's default configuration, with small sizes."""
    config = CONFIG_MAPPING[family]()
    config._attn_implementation = "sdpa"
    _shrink(config, is_vision=False)
    for path, value in OVERRIDES.get(family, {}).items():
        *parents, name = path.split(".")
        target = config
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)
    return config


def tiny_model(family: str) -> torch.nn.Module:
    """A randomly initialised model, in evaluation mode."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    model_class = getattr(transformers, names[family])
    torch.manual_seed(0)
    model = model_class(tiny_config(family)).eval()
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def routable_layers(model: torch.nn.Module) -> list[int]:
    """The full-attention layers of its decoder."""
    config = model.get_decoder().config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * LAYERS
    return [index for index, kind in enumerate(kinds) if kind == "full_attention"]


def p_mod(
    model: torch.nn.Module, capacity: float, routable: tuple[str, ...] = ("image",)
) -> MoDConfig:
    """p-MoD in every routable layer, at one capacity."""
    layers = routable_layers(model)
    values = MoDConfig.p_mod(2, max_ratio=1.0, routable=routable).to_json()
    return MoDConfig.from_json(values | {"layers": layers, "capacities": [capacity] * len(layers)})


def _shrink(config: PreTrainedConfig, *, is_vision: bool) -> None:
    for name, size in (VISION_SIZES if is_vision else TEXT_SIZES).items():
        if type(getattr(config, name, None)) in (int, float):
            setattr(config, name, size)
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value, is_vision=any(part in name for part in VISION_PARTS))
        elif name in TOKEN_IDS and value is not None:
            setattr(config, name, TOKEN_IDS[name])
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            setattr(config, name, OTHER_TOKEN)
        elif name == "layer_types" and value is not None:
            config.layer_types = _layer_types(value)[: config.num_hidden_layers]
        elif name.endswith("_layers") and isinstance(value, list):
            setattr(config, name, [layer for layer in value if layer < LAYERS])


def _layer_types(types: list[str]) -> list[str]:
    """Every other layer full attention, beside the family's other type if it has one."""
    if "full_attention" not in types:
        return list(types[:LAYERS])
    others = [kind for kind in types if kind != "full_attention"]
    return [others[0] if others and i % 2 == 0 else "full_attention" for i in range(LAYERS)]
