"""Text-only decoders, from a folder to batches with token kinds."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.arank import arank_samples
from workloads.data import Encoder, Sample, Turn
from workloads.errors import DataError
from workloads.kinds import TokenKind
from workloads.models import ModelError, load_decoder, load_model, reads_images
from workloads.models.processor import train_tokenizer

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = (Turn("human", "How many digits are there?"), Turn("gpt", "12"))


def write_tiny_llama(folder: Path) -> Path:
    """A Llama of two layers with a tokenizer that has a chat template."""
    tokenizer = train_tokenizer(["How many digits are there?", "12"] * 3, vocabulary_size=300)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"))


def test_a_text_only_decoder_is_told_from_an_image_text_model(folder: Path) -> None:
    assert not reads_images(folder)
    assert reads_images("digits")
    with pytest.raises(ModelError, match="'llama' is no image-text model"):
        load_model(folder)


def test_its_samples_have_kinds_and_labels(folder: Path) -> None:
    _, processor = load_decoder(folder)
    batch = Encoder(processor).training_batch([Sample("a", (), TURNS, {})])
    kinds = set(batch["token_kinds"].flatten().tolist())
    assert kinds == {TokenKind.SYSTEM, TokenKind.QUESTION, TokenKind.ANSWER}
    answer = batch["input_ids"][batch["labels"] != -100]
    assert processor.tokenizer.decode(answer) == "12</s>"


def test_its_layers_can_be_ranked(folder: Path) -> None:
    model, processor = load_decoder(folder)
    batch = Encoder(processor).training_batch([Sample("a", (), TURNS, {})])
    ranks = arank_samples(model, batch)[0]
    assert ranks.shape == (2, 2)
    assert bool((ranks > 0).all())


def test_a_sample_with_an_image_is_refused_by_name(folder: Path) -> None:
    _, processor = load_decoder(folder)
    turns = (Turn("human", "<image>\nWhat is it?"), Turn("gpt", "7"))
    sample = Sample("seven", (Image.new("L", (8, 8)),), turns, {})
    with pytest.raises(
        DataError, match=r"'seven'.*has 1 image\(s\), but the model reads text only"
    ):
        Encoder(processor).training(sample)


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'vit' has no decoder"):
        load_decoder(tmp_path)
