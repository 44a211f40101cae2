from collections.abc import Sequence
from itertools import groupby

import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor, ProcessorMixin

from tests.workloads.small_qwen import qwen_processor
from workloads.data import Encoder, Sample, Turn
from workloads.data.collate import collate
from workloads.errors import DataError
from workloads.kinds import TokenKind

Runs = list[tuple[str, str]]


def sample(*texts: str, pixels: Sequence[int] | None = None) -> Sample:
    marks = sum(text.count("<image>") for text in texts)
    sizes = pixels or [64] * marks
    turns = tuple(Turn("gpt" if index % 2 else "human", text) for index, text in enumerate(texts))
    images = tuple(Image.new("L", (size, size), 10 * n) for n, size in enumerate(sizes))
    return Sample("s", images, turns, {})


def runs(processor: ProcessorMixin, encoded: dict[str, torch.Tensor]) -> Runs:
    """Neighbouring tokens of a kind as one text; images as how many tokens they take."""
    pairs = zip(encoded["token_kinds"].tolist(), encoded["input_ids"].tolist(), strict=True)
    found = []
    for kind, group in groupby(pairs, key=lambda pair: pair[0]):
        ids = [token_id for _, token_id in group]
        is_image = kind == TokenKind.IMAGE
        found.append((TokenKind(kind).name, str(len(ids)) if is_image else processor.decode(ids)))
    return found


@pytest.fixture
def encoder(processor: LlavaProcessor) -> Encoder:
    return Encoder(processor)


CONVERSATIONS: dict[str, tuple[Sample, Runs]] = {
    "image first": (
        sample("<image>\nIs there a 7?", "yes"),
        [
            ("SYSTEM", "<s><user>"),
            ("IMAGE", "64"),
            ("QUESTION", "Is there a 7?<assistant>"),
            ("ANSWER", "yes</s>"),
        ],
    ),
    "image last": (
        sample("Is there a 7?\n<image>", "yes"),
        [
            ("SYSTEM", "<s><user>"),
            ("QUESTION", "Is there a 7?"),
            ("IMAGE", "64"),
            ("QUESTION", "<assistant>"),
            ("ANSWER", "yes</s>"),
        ],
    ),
    "images between words": (
        sample("Is <image> or <image> a 7?", "yes"),
        [
            ("SYSTEM", "<s><user>"),
            ("QUESTION", "Is "),
            ("IMAGE", "64"),
            ("QUESTION", " or "),
            ("IMAGE", "64"),
            ("QUESTION", " a 7?<assistant>"),
            ("ANSWER", "yes</s>"),
        ],
    ),
    "an image in the second turn": (
        sample("Is there a 7?", "no", "Here?<image>", "yes"),
        [
            ("SYSTEM", "<s><user>"),
            ("QUESTION", "Is there a 7?<assistant>"),
            ("ANSWER", "no</s>"),
            ("SYSTEM", "<user>"),
            ("QUESTION", "Here?"),
            ("IMAGE", "64"),
            ("QUESTION", "<assistant>"),
            ("ANSWER", "yes</s>"),
        ],
    ),
    "two images side by side": (
        sample("<image><image>", "7"),
        [("SYSTEM", "<s><user>"), ("IMAGE", "128"), ("SYSTEM", "<assistant>"), ("ANSWER", "7</s>")],
    ),
    "text only, with words of the template": (
        sample("user", "assistant"),
        [
            ("SYSTEM", "<s><user>"),
            ("QUESTION", "user<assistant>"),
            ("ANSWER", "assistant</s>"),
        ],
    ),
    "letters the tokenizer has never seen": (
        sample("Œuvre 七?", "七"),
        [
            ("SYSTEM", "<s><user>"),
            ("QUESTION", "Œuvre 七?<assistant>"),
            ("ANSWER", "七</s>"),
        ],
    ),
}


@pytest.mark.parametrize(("item", "expected"), CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_knows_the_kind_of_every_token(
    item: Sample, expected: Runs, encoder: Encoder, processor: LlavaProcessor
) -> None:
    encoded = encoder.training(item)
    assert runs(processor, encoded) == expected
    is_answer = encoded["token_kinds"] == TokenKind.ANSWER
    assert torch.equal(encoded["labels"], encoded["input_ids"].where(is_answer, -100))
    assert encoded["attention_mask"].all()
    assert len(encoded.get("pixel_values", [])) == len(item.images)


def test_a_prompt_ends_where_the_last_answer_begins(
    encoder: Encoder, processor: LlavaProcessor
) -> None:
    item = sample("<image>Is there a 7?", "no", "a 2?", "yes")
    prompt, whole = encoder.prompt(item), encoder.training(item)
    length = len(prompt["input_ids"])
    assert torch.equal(prompt["input_ids"], whole["input_ids"][:length])
    assert torch.equal(prompt["token_kinds"], whole["token_kinds"][:length])
    assert processor.decode(whole["input_ids"][length:]) == "yes</s>"
    assert "labels" not in prompt


def test_agrees_with_the_processor_itself(encoder: Encoder, processor: LlavaProcessor) -> None:
    item = sample("<image>\nIs there a 7?", "yes")
    content = [
        {"type": "image", "image": item.images[0]},
        {"type": "text", "text": "Is there a 7?"},
    ]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
    expected = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    encoded = encoder.training(item)
    assert torch.equal(encoded["input_ids"], expected["input_ids"][0])
    assert torch.equal(encoded["pixel_values"], expected["pixel_values"])
    assert torch.equal(encoded["labels"] != -100, expected["assistant_masks"][0].bool())


@pytest.mark.parametrize("as_prompt", [False, True])
def test_a_batch_equals_its_samples(as_prompt: bool, encoder: Encoder) -> None:
    items = [
        sample("<image>a 7?", "yes"),
        sample("How many?", "12"),
        sample("<image>or<image>", "no", "Sure?", "yes"),
    ]
    one = encoder.prompt if as_prompt else encoder.training
    many = encoder.prompt_batch if as_prompt else encoder.training_batch
    expected = collate(
        [one(item) for item in items],
        pad_token_id=encoder.pad_token_id,
        side="left" if as_prompt else "right",
    )
    batch = many(items)
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_refuses_what_is_too_long_instead_of_cutting_it(processor: LlavaProcessor) -> None:
    item = sample("<image>Is there a 7?", "yes")
    length = len(Encoder(processor).training(item)["input_ids"])
    assert len(Encoder(processor, max_tokens=length).training(item)["input_ids"]) == length
    with pytest.raises(DataError, match=rf"'s'.*needs {length} tokens, more than .* {length - 1}"):
        Encoder(processor, max_tokens=length - 1).training(item)


def with_template(processor: LlavaProcessor, template: str | None) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=processor.tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


PARTS = (
    "{% for p in m['content'] %}{{ '<image>\n' if p['type'] == 'image' else (p['text'] | trim) }}"
    "{% endfor %}"
)
LLAVA_15 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: " + PARTS + " {% else %}"
    "ASSISTANT: " + PARTS + "</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_follows_a_template_that_trims_and_has_no_generation_tags(
    processor: LlavaProcessor,
) -> None:
    other = with_template(processor, LLAVA_15)
    encoded = Encoder(other).training(sample("<image>\n Is there a 7? ", "yes"))
    assert runs(other, encoded) == [
        ("SYSTEM", "USER: "),
        ("IMAGE", "64"),
        ("SYSTEM", "\n"),
        ("QUESTION", "Is there a 7? ASSISTANT:"),
        ("ANSWER", " yes</s>"),
    ]


def test_refuses_a_template_that_changes_words(processor: LlavaProcessor) -> None:
    shouting = with_template(processor, LLAVA_15.replace("trim", "upper"))
    with pytest.raises(DataError, match="alters a turn's text"):
        Encoder(shouting).training(sample("Is there?", "yes"))


def test_what_a_system_message_says_is_no_question(
    encoder: Encoder, processor: LlavaProcessor
) -> None:
    turns = (Turn("system", "be brief"), Turn("human", "Is there a 7?"), Turn("gpt", ""))
    assert runs(processor, encoder.prompt(Sample("s", (), turns, {}))) == [
        ("SYSTEM", "<s><system>be brief<user>"),
        ("QUESTION", "Is there a 7?<assistant>"),
    ]


def test_says_what_a_template_refuses(processor: LlavaProcessor) -> None:
    strict = with_template(processor, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="refuses the conversation: roles must alternate"):
        Encoder(strict).prompt(sample("hi", "yes"))


def test_refuses_a_template_that_drops_images(processor: LlavaProcessor) -> None:
    blind = with_template(processor, LLAVA_15.replace("<image>\n", ""))
    with pytest.raises(DataError, match=r"'s': the chat template shows 0 of its 1 image"):
        Encoder(blind).training(sample("<image>Is there?", "yes"))


def test_refuses_a_template_that_rewrites_the_past(processor: LlavaProcessor) -> None:
    forgetful = with_template(
        processor, "{% if messages | length > 1 %}later{% endif %}" + LLAVA_15
    )
    with pytest.raises(DataError, match="rewrites earlier turns"):
        Encoder(forgetful).training(sample("Is there?", "yes"))


def test_refuses_a_processor_without_a_template(processor: LlavaProcessor) -> None:
    with pytest.raises(DataError, match="has no chat template"):
        Encoder(with_template(processor, None))


def test_serves_a_family_whose_images_differ_in_length() -> None:
    qwen = qwen_processor()
    item = sample("Is <image> in <image>?", "no", pixels=[56, 112])
    encoded = Encoder(qwen).training(item)
    assert runs(qwen, encoded) == [
        ("SYSTEM", "<|im_start|>user\n"),
        ("QUESTION", "Is "),
        ("SYSTEM", "<|vision_start|>"),
        ("IMAGE", "4"),
        ("SYSTEM", "<|vision_end|>"),
        ("QUESTION", " in "),
        ("SYSTEM", "<|vision_start|>"),
        ("IMAGE", "16"),
        ("SYSTEM", "<|vision_end|>"),
        ("QUESTION", "?<|im_end|>\n<|im_start|>assistant\n"),
        ("ANSWER", "no<|im_end|>\n"),
    ]
    assert encoded["image_grid_thw"].tolist() == [[1, 4, 4], [1, 8, 8]]
    assert len(encoded["pixel_values"]) == 16 + 64
