"""The embedded model's processor: a tokenizer of its domain, CLIP-style pixels, a chat template."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"
PAD_TOKEN, BOS_TOKEN, EOS_TOKEN = "<pad>", "<s>", "</s>"

MAX_TOKENS = 1024
"""Longest sequence, which the decoder's positions have to cover."""

_ROLE_TOKENS = ["<system>", "<user>", "<assistant>"]
_GREY_MEAN, _GREY_STD = 0.24, 0.19

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- macro parts(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {{- '<image>' if part['type'] == 'image' else part['text'] -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {{- '<' + message['role'] + '>' -}}
  {%- if message['role'] == 'assistant' -%}
    {%- generation -%}{{- parts(message['content']) + eos_token -}}{%- endgeneration -%}
  {%- else -%}
    {{- parts(message['content']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: a domain word is one token, other text still encodes.

    Args:
        texts: Questions and answers of the domain.
        vocabulary_size: Upper bound, at least 256 bytes plus 7 special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, IMAGE_TOKEN, *_ROLE_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="right",
        model_max_length=MAX_TOKENS,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, *, image_pixels: int, patch_pixels: int
) -> LlavaProcessor:
    """Join a tokenizer and CLIP-style image processing for square images of ``image_pixels``."""
    square = {"height": image_pixels, "width": image_pixels}
    image_processor = CLIPImageProcessor(
        size=square,
        do_center_crop=False,
        crop_size=square,
        image_mean=[_GREY_MEAN] * 3,
        image_std=[_GREY_STD] * 3,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_pixels,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
