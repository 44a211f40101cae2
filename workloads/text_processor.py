"""Text-only decoders: what a processor does for an image-text model, a tokenizer does for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase


class TextProcessor:
    """A tokenizer behind the part of a processor's interface that encoding uses."""

    image_token: str | None = None
    image_token_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @property
    def chat_template(self) -> Any:  # noqa: ANN401 - text, or several by name
        """The tokenizer's."""
        return self.tokenizer.chat_template

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
    ) -> str:
        """Render messages, whose parts are joined: templates of text models expect plain text."""
        plain = [
            {**message, "content": "".join(part.get("text", "") for part in message["content"])}
            for message in messages
        ]
        return str(
            self.tokenizer.apply_chat_template(
                plain, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        )

    def __call__(
        self,
        text: list[str],
        images: object = None,
        *,
        return_text_replacement_offsets: bool = False,
        **options: Any,  # noqa: ANN401 - as the tokenizer takes them
    ) -> Mapping[str, Any]:
        """Tokenize; there are no images, and no placeholders that could be replaced."""
        del images, return_text_replacement_offsets
        features: Mapping[str, Any] = self.tokenizer(text, **options)
        return features
